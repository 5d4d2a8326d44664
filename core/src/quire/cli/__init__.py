"""The `quire` command. `main` is its entry point; `quire --version` imports nothing else of it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, ending the process with 0, 1 (it failed), 2 (it was asked wrongly) or 130 (Ctrl-C)."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from quire import __version__

        print(f"quire {__version__}")
        return
    from quire.cli.app import make_app

    make_app()(prog_name="quire")
