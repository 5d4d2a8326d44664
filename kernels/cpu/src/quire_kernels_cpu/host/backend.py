"""The hooks of a backend on the host's processors: the C++ kernels, everything else the core's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from quire.backend.contract import (
    BLOCK_FIRST,
    HEAD_MAJOR,
    SLOT_MAJOR,
    Allocator,
    BackendCaps,
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
from quire.errors import BackendError, ConfigError
from quire.models.spec import ModelSpec
from quire_kernels_cpu.host.device import CpuDevice
from quire_kernels_cpu.host.options import Options, check_names, parse_options
from quire_kernels_cpu.host.processor import read_processor
from quire_kernels_cpu.kernels import CpuKernels
from quire_kernels_cpu.library import Library, load_library
from quire_kernels_cpu.memory import HugePageAllocator
from quire_kernels_cpu.recording import RecordingBuilder
from quire_kernels_cpu.registry import register, register_transforms

DTYPES = ("float32", "bfloat16", "float16")
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


class HostBackend:
    """One opened backend. `quire_describe` comes first and checks the options.

    A subclass says its `provider`, the kernel `variants` it offers (the plainest first), and how far it is proven.
    """

    provider: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    profile: ClassVar[ConformanceProfile] = ConformanceProfile(levels=tuple(range(8)))

    def __init__(self) -> None:
        self._processor = read_processor()
        self._options: Options | None = None
        self._library: Library | None = None

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what the kernels can do. Raise ConfigError on a wrong option, BackendError if the kernels do not load."""
        check_names(selection.options, self.provider, self.variants)
        self._options = parse_options(selection.options, self._processor)
        self._library = self.load(self._options.isa)
        return BackendCaps(
            device_type="cpu",
            dtypes=DTYPES,
            kv_dtypes=DTYPES,
            memory=MemoryModel.UNIFIED,
            shapes=ShapeMode.BUCKETED,
            graphs=GraphLevel.STEP,
            max_in_flight=self._options.max_in_flight,
            features=FEATURES,
            deterministic=True,
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Return the processors of this process's affinity mask; every rank shares them."""
        return CpuDevice(self._processor, parse_options(selection.options, self._processor), self._opened())

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        """Take any block size and layout; a block of one head lies together by preference."""
        return KVConstraints(
            block_sizes=(16, 32, 64, 128, 256, 8, 4, 2, 1),
            layouts=(HEAD_MAJOR, SLOT_MAJOR, BLOCK_FIRST),
            dtypes=DTYPES,
        )

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        """Hold the kernels to every bound of the records."""
        return self.profile

    @hookimpl
    def quire_create_allocator(self, device: Device) -> Allocator:
        """Return huge pages: weights are streamed, and address translation would take half of the time."""
        return HugePageAllocator()

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        """Register the C++ kernels."""
        register(table, CpuKernels(self._opened()), self.provider)

    @hookimpl
    def quire_register_weight_transforms(self, table: KernelRegistrar) -> None:
        """Register the packing of projections."""
        register_transforms(table, CpuKernels(self._opened()), self.provider)

    @hookimpl
    def quire_create_program_builder(self, device: Device) -> ProgramBuilder:
        """Record decode steps of few rows."""
        return RecordingBuilder(self._opened())

    @hookimpl
    def quire_collect_env(self) -> Mapping[str, str]:
        """Return what computes, and with what."""
        library, options = self._opened(), self._options
        return {
            "processor": self._processor.model,
            "instruction set": library.variant,
            "cores": ",".join(map(str, self._processor.cores)),
            "threads": str(torch.get_num_threads()),
            "pinned": "yes" if options is not None and options.pin else "no",
            "openmp": library.openmp,
            "compiler": library.compiler,
            "torch": torch.__version__,
        }

    def _opened(self) -> Library:
        if self._library is None:
            self._library = self.load(None)
        return self._library

    def load(self, isa: str | None) -> Library:
        """Load the kernels. Raise ConfigError where `isa` cannot run, BackendError where they are not built."""
        try:
            return load_library(isa)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise BackendError(f"the CPU kernels cannot be loaded: {error}") from error
