"""The hooks of cuda."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import torch

from quire.backend.accelerator.mapped_memory import MappedMemory
from quire.backend.accelerator.regions import RegionAllocator
from quire.backend.contract import Allocator, BackendCaps, Device, KernelRegistrar, Selection
from quire.backend.hookspecs import hookimpl
from quire_cuda.device import CUDA, load_driver
from quire_cuda.manifest import SUPPORT
from quire_kernels_triton.gpu_backend import DTYPES, FEATURES, GpuBackend, check_choice

if TYPE_CHECKING:
    from quire_kernels_triton.tuning import Target

DEPENDENT_LAUNCH = ("on", "off")


def bindings_version() -> str:
    """Return the version of what compiles CUDA C++ here, or what is lost without it."""
    try:
        return metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:
        return "not installed: a layer's products of few tokens run with separate norms and activations"


class CudaBackend(GpuBackend):
    """The backend. Option `dependent_launch` ("on" or "off"): kernels may start before the one ahead has ended."""

    options = {"dependent_launch": "off: no kernel starts before the one ahead has ended (default: on)"}
    features = FEATURES | {"sleep"}
    kv_dtypes = (*DTYPES, "float8_e4m3fn")
    levels = tuple(range(8))

    def __init__(self) -> None:
        super().__init__(CUDA, SUPPORT)
        self._dependent_launch = True

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what the kernels can do. Raise ConfigError on an option or a value that does not exist."""
        self._dependent_launch = check_choice(selection, "dependent_launch", DEPENDENT_LAUNCH) == "on"
        return super().quire_describe(selection)

    @hookimpl
    def quire_create_allocator(self, device: Device) -> Allocator:
        """Return regions that keep their addresses when they sleep."""
        return RegionAllocator(MappedMemory(device.torch_device, torch.cuda, load_driver()), device.name)

    def find_target(self) -> Target:
        """Return the current GPU's compute capability and number of multiprocessors."""
        from quire_cuda.carveout import prefer_shared_memory
        from quire_kernels_triton.tuning import detect

        target = detect(self._dependent_launch)
        if target.starts_early:
            prefer_shared_memory()
        return target

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        """Register the kernels in Triton and those in CUDA C++, with the settings of the GPU that is here."""
        super().quire_register_kernels(table)
        from quire_kernels_cuda import registry

        registry.register_kernels(table, self.find_target())

    @hookimpl
    def quire_collect_env(self) -> dict[str, str]:
        """Return versions, and the GPUs that torch sees."""
        import triton

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return {
            "torch": torch.__version__,
            "torch's CUDA": str(torch.version.cuda),
            "triton": triton.__version__,
            "cuda-bindings": bindings_version(),
            "GPUs": ", ".join(gpus) or "none",
        }
