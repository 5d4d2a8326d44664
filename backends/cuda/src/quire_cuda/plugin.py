"""The hooks of cuda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from quire.backend.accelerator.collectives import DeviceCommunicator
from quire.backend.accelerator.graphs import GraphProgramBuilder
from quire.backend.accelerator.mapped_memory import MappedMemory
from quire.backend.accelerator.regions import ALIGNMENT, RegionAllocator
from quire.backend.contract import (
    BLOCK_FIRST,
    HEAD_MAJOR,
    SLOT_MAJOR,
    Allocator,
    BackendCaps,
    Communicator,
    ConformanceProfile,
    Device,
    GraphLevel,
    KernelRegistrar,
    KVConstraints,
    MemoryModel,
    ProgramBuilder,
    Selection,
    ShapeMode,
)
from quire.backend.hookspecs import hookimpl
from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire_cuda.device import GRAPHS, CudaDevice, load_driver

DEPENDENT_LAUNCH = False  # until it has been measured
DTYPES = ("bfloat16", "float16", "float32")
FEATURES = frozenset(
    {
        "chunked_prefill",
        "prefix_cache",
        "block_copy",
        "sliding_window",
        "soft_cap",
        "sinks",
        "logprobs",
        "penalties",
        "moe",
        "sleep",
    }
)


class CudaBackend:
    """The backend. Option `dependent_launch` ("on" or "off"): kernels may start before the one ahead has ended."""

    def __init__(self) -> None:
        self._dependent_launch = DEPENDENT_LAUNCH

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what the kernels can do. Raise ConfigError on an option that does not exist."""
        self._dependent_launch = read_options(selection.options)
        return BackendCaps(
            device_type="cuda",
            dtypes=DTYPES,
            kv_dtypes=DTYPES,
            memory=MemoryModel.DISCRETE,
            shapes=ShapeMode.BUCKETED,
            graphs=GraphLevel.STEP,
            max_in_flight=2,
            features=FEATURES,
            deterministic=True,
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Open GPU number `rank` of those that are visible."""
        return CudaDevice(rank)

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        """Offer block sizes that fill a memory transaction, in any layout."""
        return KVConstraints(
            block_sizes=(16, 32, 64, 128),
            layouts=(HEAD_MAJOR, BLOCK_FIRST, SLOT_MAJOR),
            dtypes=DTYPES,
            alignment_bytes=ALIGNMENT,
        )

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        """Hold every kernel to the bound of its record."""
        return ConformanceProfile(levels=(0, 1, 2, 3, 4, 5), support="measured on NVIDIA H100 and H200")

    @hookimpl
    def quire_create_allocator(self, device: Device) -> Allocator:
        """Return regions that keep their addresses when they sleep."""
        return RegionAllocator(MappedMemory(device.torch_device, torch.cuda, load_driver()), device.name)

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        """Register the Triton kernels, tuned for the current GPU."""
        from quire_kernels_triton.registry import register_kernels
        from quire_kernels_triton.tuning import detect

        register_kernels(table, target=detect(self._dependent_launch))

    @hookimpl
    def quire_create_program_builder(self, device: Device) -> ProgramBuilder:
        """Return the builder of CUDA graphs."""
        return GraphProgramBuilder(device.torch_device, GRAPHS)

    @hookimpl
    def quire_create_communicator(self, group: Sequence[int], device: Device) -> Communicator | None:
        """Return NCCL's collectives; one rank alone needs none."""
        return DeviceCommunicator(group, device.torch_device, "nccl") if len(group) > 1 else None

    @hookimpl
    def quire_collect_env(self) -> dict[str, str]:
        """Return versions, and the GPUs that torch sees."""
        import triton

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return {
            "torch": torch.__version__,
            "torch's CUDA": str(torch.version.cuda),
            "triton": triton.__version__,
            "GPUs": ", ".join(gpus) or "none",
        }


def read_options(options: Mapping[str, str]) -> bool:
    """Return whether kernels may start early. Raise ConfigError on an option or a value that does not exist."""
    unknown = sorted(set(options) - {"dependent_launch"})
    if unknown:
        raise ConfigError(f"the cuda backend has no option {unknown[0]!r}; it has dependent_launch")
    value = options.get("dependent_launch", "on" if DEPENDENT_LAUNCH else "off")
    if value not in ("on", "off"):
        raise ConfigError(f"dependent_launch is {value!r}; it must be on or off")
    return value == "on"
