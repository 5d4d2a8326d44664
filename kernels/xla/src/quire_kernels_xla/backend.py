"""The hooks that XLA backends share: what differs from chip to chip is data (`Traits`)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from quire.backend.contract import (
    HEAD_MAJOR,
    BackendCaps,
    ConfigPatch,
    ConformanceProfile,
    Device,
    Executor,
    ExecutorContext,
    GraphLevel,
    KernelRegistrar,
    KVConstraints,
    MemoryModel,
    ProgramBuilder,
    Selection,
    ShapeMode,
)
from quire.backend.hookspecs import hookimpl
from quire.config import EngineConfig
from quire.models.spec import ModelSpec
from quire_kernels_xla.buckets import BucketSizes, StaticProgramBuilder
from quire_kernels_xla.limits import keep_within
from quire_kernels_xla.options import Options, parse_options

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
LEVELS = (0, 1, 2, 3, 4, 5, 7)


def accept(text: str) -> None:
    """Find nothing wrong with a program."""


@dataclass(frozen=True)
class Traits:
    """What a backend says of its chip. `name` is its provider's name and XLA's platform; dtypes by torch's names.

    `support` says where it has been run, `versions` names the distributions whose versions tell most, `unroll` leaves
    no loop in programs, `pallas` tells of a TPU, which takes Pallas kernels, and `check` is shown the StableHLO text of
    each program and raises what the compiler would refuse. `runtimes` are those that may run it, of
    which the first that is installed does.
    """

    name: str
    support: str
    dtypes: tuple[str, ...]
    block_sizes: tuple[int, ...]
    sizes: BucketSizes
    versions: tuple[str, ...]
    unroll: bool = False
    pallas: bool = False
    check: Callable[[str], None] = accept
    runtimes: tuple[str, ...] = ("jax",)


class XlaBackend:
    """A backend that compiles the core's steps. Options: see `quire_kernels_xla.options`."""

    def __init__(self, traits: Traits) -> None:
        self._traits = traits
        self._options = Options(traits.name)

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what compiled steps can do. Raise ConfigError on an option that does not exist."""
        self._options = parse_options(self._traits.name, selection.options, self._traits.runtimes)
        return BackendCaps(
            device_type="xla",
            dtypes=self._traits.dtypes,
            kv_dtypes=self._traits.dtypes,
            memory=MemoryModel.UNIFIED if self._options.device == "cpu" else MemoryModel.DISCRETE,
            shapes=ShapeMode.STATIC,
            graphs=GraphLevel.STEP,
            max_in_flight=2,
            features=FEATURES,
            deterministic=True,
            schedule=self._traits.sizes.constraints(),
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Open chip number `rank`, or XLA's CPU device if that was asked for. Raise BackendError if there is none."""
        from quire_kernels_xla.device import open_device

        return open_device(self._options.device, rank, self._options.runtime)

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        """Offer the blocks that fill a tile."""
        traits = self._traits
        return KVConstraints(block_sizes=traits.block_sizes, layouts=(HEAD_MAJOR,), dtypes=traits.dtypes)

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        """Hold every program to the bounds of the records. Collectives (level 6) are not written."""
        return ConformanceProfile(levels=LEVELS, support=self._traits.support)

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        """Register the static-shape kernels."""
        from quire_kernels_xla.device import find_device
        from quire_kernels_xla.registry import XlaKernels

        device = "cpu" if self._options.runtime == "torch_xla" else self._options.device  # JAX only lowers beside it
        pallas = self._traits.pallas and self._options.device != "cpu"
        kernels = XlaKernels(partial(find_device, device, 0), self._traits.unroll, pallas)
        kernels.register(table, self._traits.name)

    @hookimpl
    def quire_create_program_builder(self, device: Device) -> ProgramBuilder:
        """Return the builder of compiled steps."""
        return StaticProgramBuilder(self._traits.sizes)

    @hookimpl
    def quire_create_executor(self, context: ExecutorContext) -> Executor:
        """Return the executor of static shapes: bytes on this device are no torch tensors."""
        from quire_kernels_xla.executor import StaticExecutor

        builder = StaticProgramBuilder(self._traits.sizes)
        return StaticExecutor(context, builder, self._options.ahead, self._traits.check)

    @hookimpl
    def quire_resolve_config(self, config: EngineConfig, caps: BackendCaps) -> ConfigPatch:
        """Keep steps within the largest bucket."""
        return keep_within(config, self._traits.sizes)

    @hookimpl
    def quire_collect_env(self) -> Mapping[str, str]:
        """Return the versions of what compiles and runs."""
        return {name: _version(name) for name in self._traits.versions}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
