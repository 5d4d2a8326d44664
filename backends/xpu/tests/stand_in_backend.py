"""The xpu backend on the tests' stand-in for a device: announced under a name of its own, used only when named."""

from __future__ import annotations

from stand_in import RUNTIME

from quire.backend.contract import Found
from quire_kernels_triton.gpu_backend import Platform
from quire_kernels_triton.tuning import Target
from quire_xpu.plugin import XpuBackend

API = (1, 0)
PLUGIN = "stand_in_backend:BACKEND"
# No graphs: those of the stand-in record calls of torch, and interpreted kernels make none.
BACKEND = XpuBackend(Platform("cpu", RUNTIME, None, collectives=None, pin_memory=False), Target("interpreter", 2))


def probe() -> Found:
    return Found(0)
