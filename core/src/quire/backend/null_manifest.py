"""Manifest of the null backend: accounting instead of mathematics. It is used only when named."""

from __future__ import annotations

from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "quire.backend.null:PLUGIN"


def probe() -> Found | Absent:
    """Say that it can always run: it needs no device and no torch."""
    return Found(score=0, facts={"device": "none: steps are checked and timed, not computed"})
