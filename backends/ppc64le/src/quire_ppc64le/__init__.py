"""Quire on POWER processors. The manifest is `quire_ppc64le.manifest`; the hooks are in `quire_ppc64le.backend`."""
