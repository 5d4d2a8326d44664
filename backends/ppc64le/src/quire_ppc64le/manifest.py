"""Manifest of the ppc64le backend: looks at the processor, imports neither torch nor the kernels."""

from __future__ import annotations

import importlib.util
import platform
from typing import TYPE_CHECKING

from quire.backend.contract import Absent, Found

if TYPE_CHECKING:
    from quire_kernels_cpu.host.processor import Processor

API = (1, 0)
PLUGIN = "quire_ppc64le.backend:Ppc64leBackend"
SCORE = 50
NEEDED_FLAGS = frozenset({"vsx", "arch_2_07"})  # POWER8
INSTALL = "pip install 'quire[ppc64le]'"
ANYWHERE = "--backend reference runs anywhere, slowly"


def probe() -> Found | Absent:
    """Find a little-endian POWER machine with VSX, torch and the kernels."""
    if platform.machine() != "ppc64le":
        endian = ": it is big-endian" if platform.machine() == "ppc64" else ""
        return Absent(f"this machine is {platform.machine()}, not ppc64le{endian}", ANYWHERE)
    for module in ("torch", "quire_kernels_cpu"):
        if importlib.util.find_spec(module) is None:
            return Absent(f"{module} is not installed", INSTALL)
    from quire_kernels_cpu.host.processor import read_processor

    return judge(read_processor())


def judge(processor: Processor) -> Found | Absent:
    """Say whether the backend can run on a POWER processor."""
    missing = sorted(NEEDED_FLAGS - processor.flags)
    if missing:
        return Absent(f"{processor.model} lacks {', '.join(missing)}; it must be POWER8 or newer", ANYWHERE)
    return Found(SCORE, processor.facts)
