"""Manifest of the emulated backend: the real one's verdict on the processor that qemu shows."""

from __future__ import annotations

from quire.backend.contract import Absent, Found
from quire_ppc64le.manifest import NEEDED_FLAGS, judge

API = (1, 0)
PLUGIN = "emulated.backend:EmulatedBackend"


def probe() -> Found | Absent:
    """Find an emulated POWER8: the oldest that must do."""
    from quire_kernels_cpu.host.processor import read_processor

    return judge(read_processor()._replace(model="POWER, emulated by qemu", flags=NEEDED_FLAGS))
