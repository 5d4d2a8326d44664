"""The hooks of rocm. torch drives AMD GPUs through its module `cuda`, with HIP behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quire.backend.accelerator.graphs import GraphApi
from quire.backend.accelerator.mapped_memory import MappedMemory
from quire.backend.accelerator.regions import RegionAllocator
from quire.backend.contract import Allocator, BackendCaps, Device, Selection
from quire.backend.hookspecs import hookimpl
from quire_kernels_triton.gpu_backend import FEATURES, GpuBackend, Platform, check_choice
from quire_rocm.driver import load_driver
from quire_rocm.manifest import SUPPORT

if TYPE_CHECKING:
    from quire_kernels_triton.tuning import Target

# Other threads may use the device while a step is captured.
GRAPHS = GraphApi(torch.cuda, torch.cuda.CUDAGraph, {"capture_error_mode": "thread_local"})
HIP = Platform("cuda", torch.cuda, GRAPHS, collectives="nccl")  # RCCL goes by NCCL's name


class RocmBackend(GpuBackend):
    """The backend. Option `memory` ("torch" or "mapped"): who gives it; mapped regions can sleep."""

    options = {"memory": "mapped: regions that can sleep, through HIP's virtual memory (default: torch)"}

    def __init__(self, platform: Platform = HIP) -> None:
        super().__init__(platform, SUPPORT)
        self._mapped = False

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what the kernels can do. Raise ConfigError on an option or a value that does not exist."""
        self._mapped = check_choice(selection, "memory", ("torch", "mapped")) == "mapped"
        self.features = FEATURES | {"sleep"} if self._mapped else FEATURES
        return super().quire_describe(selection)

    @hookimpl
    def quire_create_allocator(self, device: Device) -> Allocator | None:
        """Return regions that keep their addresses when they sleep, where they were asked for."""
        if not self._mapped:
            return None
        return RegionAllocator(MappedMemory(device.torch_device, self.platform.runtime, load_driver()), device.name)

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
