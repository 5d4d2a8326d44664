"""Manifest of the cpu-x86 backend: looks at the processor, imports neither torch nor the kernels."""

from __future__ import annotations

import importlib.util
import platform
from typing import TYPE_CHECKING

from quire.backend.contract import Absent, Found

if TYPE_CHECKING:
    from quire_kernels_cpu.host.processor import Processor

API = (1, 0)
PLUGIN = "quire_cpu_x86.backend:CpuX86Backend"
SCORE = 50
NEEDED_FLAGS = frozenset({"avx2", "fma", "f16c"})
INSTALL = "pip install 'quire[cpu-x86]'"


def probe() -> Found | Absent:
    """Find an x86-64 processor with AVX2, torch and the kernels."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return Absent(f"this machine is {platform.machine()}, not x86-64", "--backend reference runs anywhere, slowly")
    for module in ("torch", "quire_kernels_cpu"):
        if importlib.util.find_spec(module) is None:
            return Absent(f"{module} is not installed", INSTALL)
    from quire_kernels_cpu.host.processor import read_processor

    return judge(read_processor())


def judge(processor: Processor) -> Found | Absent:
    """Say whether the backend can run on an x86-64 processor."""
    missing = sorted(NEEDED_FLAGS - processor.flags)
    if missing:
        return Absent(f"{processor.model} lacks {', '.join(missing)}", "--backend reference runs anywhere, slowly")
    return Found(SCORE, processor.facts)
