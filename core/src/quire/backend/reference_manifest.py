"""Manifest of the reference backend: pure torch on the CPU. It is used only when named."""

from __future__ import annotations

import importlib.util

from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "quire.backend.reference:PLUGIN"


def probe() -> Found | Absent:
    """Say whether torch is there; it is not imported."""
    if importlib.util.find_spec("torch") is None:
        return Absent("torch is not installed", "pip install torch")
    return Found(score=0, facts={"device": "any CPU, through torch"})
