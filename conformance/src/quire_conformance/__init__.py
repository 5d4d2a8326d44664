"""The conformance suite for Quire backends, and the kit to write one.

`quire conformance --backend NAME` runs it; a vendor's own test folder holds a `conformance.toml` with one line,
`backend = "NAME"`, which pytest collects as the whole suite. `quire new-backend NAME` writes a package to start from.
"""
