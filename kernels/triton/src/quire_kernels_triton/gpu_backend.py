"""Hooks of a backend whose kernels these are, on GPUs that torch drives: what differs is a `Platform`, and data.

Kernels are imported when they are registered: a backend can be asked what it is where triton is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from quire.backend.accelerator.collectives import DeviceCommunicator
from quire.backend.accelerator.device import AcceleratorDevice
from quire.backend.accelerator.graphs import GraphApi, GraphProgramBuilder
from quire.backend.accelerator.regions import ALIGNMENT
from quire.backend.contract import (
    BLOCK_FIRST,
    HEAD_MAJOR,
    SLOT_MAJOR,
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

if TYPE_CHECKING:
    from quire_kernels_triton.tuning import Target

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
    }
)


class Platform(NamedTuple):
    """A kind of GPU as torch drives it.

    `device_type` and `runtime`: torch's name of it and torch's module of that name. `graphs`: how steps are captured;
    None where torch cannot. `collectives`: torch.distributed's backend for it; None where there is none, and the core's
    default moves tensors through the host. `pin_memory`: host buffers are page-locked.
    """

    device_type: str
    runtime: ModuleType
    graphs: GraphApi | None
    collectives: str | None
    pin_memory: bool = True


class GpuBackend:
    """Made to be extended with `find_target`, and with the hooks that differ. `support` says how far it was proven."""

    options: Mapping[str, str] = {}  # option: what it does
    features = FEATURES
    kv_dtypes: tuple[str, ...] = DTYPES
    levels = (0, 1, 2, 3, 4, 5)  # of the conformance suite

    def __init__(self, platform: Platform, support: str) -> None:
        self.platform = platform
        self._support = support

    def find_target(self) -> Target:
        """Return the GPU that kernels are launched on."""
        raise NotImplementedError

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what the kernels can do. Raise ConfigError on an option that does not exist."""
        check_names(selection, self.options)
        captures = self.platform.graphs is not None
        return BackendCaps(
            device_type=self.platform.device_type,
            dtypes=DTYPES,
            kv_dtypes=self.kv_dtypes,
            memory=MemoryModel.DISCRETE,
            shapes=ShapeMode.BUCKETED if captures else ShapeMode.DYNAMIC,
            graphs=GraphLevel.STEP if captures else GraphLevel.NONE,
            max_in_flight=2,
            features=self.features,
            deterministic=True,
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Open GPU number `rank` of those that are visible."""
        device = torch.device(self.platform.device_type, rank)
        return AcceleratorDevice(device, self.platform.runtime, self.platform.pin_memory)

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        """Offer block sizes that fill a memory transaction, in any layout."""
        return KVConstraints(
            block_sizes=(16, 32, 64, 128),
            layouts=(HEAD_MAJOR, BLOCK_FIRST, SLOT_MAJOR),
            dtypes=self.kv_dtypes,
            alignment_bytes=ALIGNMENT,
        )

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        """Hold every kernel to the bound of its record."""
        return ConformanceProfile(levels=self.levels, support=self._support)

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        """Register the kernels, with the settings of the GPU that is here."""
        from quire_kernels_triton.registry import register_kernels

        register_kernels(table, target=self.find_target())

    @hookimpl
    def quire_create_program_builder(self, device: Device) -> ProgramBuilder | None:
        """Return the builder of captured steps, or None: steps run as they are."""
        graphs, runtime, gpu = self.platform.graphs, self.platform.runtime, device.torch_device
        if graphs is None:
            return None

        def prepare(calls: Sequence[Callable[[], Any]]) -> int:
            from quire_kernels_triton.compile_ahead import compile_together

            return compile_together(calls, lambda: runtime.set_device(gpu))

        return GraphProgramBuilder(gpu, graphs, prepare)

    @hookimpl
    def quire_create_communicator(self, group: Sequence[int], device: Device) -> Communicator | None:
        """Return collectives between the GPUs; one rank alone needs none."""
        if len(group) == 1 or self.platform.collectives is None:
            return None
        return DeviceCommunicator(group, device.torch_device, self.platform.collectives)


def check_names(selection: Selection, known: Mapping[str, str]) -> None:
    """Raise ConfigError on an option that does not exist."""
    unknown = sorted(selection.options.keys() - known.keys())
    if unknown:
        has = "; ".join(f"{name}: {what}" for name, what in known.items()) or "none"
        raise ConfigError(f"the {selection.name} backend has no option {unknown[0]!r}; its options are {has}")


def check_choice(selection: Selection, name: str, choices: Sequence[str]) -> str:
    """Return the value of an option, the first choice where it is not given. Raise ConfigError on any other value."""
    value = selection.options.get(name, choices[0])
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; it must be {' or '.join(choices)}")
    return value
