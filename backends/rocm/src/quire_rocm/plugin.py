"""The hooks of rocm. torch drives AMD GPUs through its module `cuda`, with HIP behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quire.backend.accelerator.graphs import GraphApi
from quire.backend.hookspecs import hookimpl
from quire_kernels_triton.gpu_backend import GpuBackend, Platform
from quire_rocm.manifest import SUPPORT

if TYPE_CHECKING:
    from quire_kernels_triton.tuning import Target

# Other threads may use the device while a step is captured.
GRAPHS = GraphApi(torch.cuda, torch.cuda.CUDAGraph, {"capture_error_mode": "thread_local"})
HIP = Platform("cuda", torch.cuda, GRAPHS, collectives="nccl")  # RCCL goes by NCCL's name


class RocmBackend(GpuBackend):
    """The backend. It has no options."""

    def __init__(self, platform: Platform = HIP) -> None:
        super().__init__(platform, SUPPORT)

    def find_target(self) -> Target:
        """Return the current GPU's instruction set and number of compute units."""
        from quire_kernels_triton.tuning import detect

        return detect()

    @hookimpl
    def quire_collect_env(self) -> dict[str, str]:
        """Return versions, and the GPUs that torch sees."""
        import triton

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return {
            "torch": torch.__version__,
            "torch's HIP": str(torch.version.hip),
            "triton": triton.__version__,
            "GPUs": ", ".join(gpus) or "none",
            "support": SUPPORT,
        }
