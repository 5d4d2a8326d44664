"""The reference backend: every op in pure torch on the CPU. Slow, right, and the ground under every other backend.

Its kernels (provider "reference", priority 0) stand in each backend's kernel table below that backend's own.
"""

from __future__ import annotations

import torch

from quire.backend.contract import (
    BLOCK_FIRST,
    HEAD_MAJOR,
    SLOT_MAJOR,
    BackendCaps,
    ConformanceProfile,
    Device,
    GraphLevel,
    Kernel,
    KernelRegistrar,
    KVConstraints,
    MemoryModel,
    Selection,
    ShapeMode,
)
from quire.backend.hookspecs import hookimpl
from quire.backend.host_device import HostDevice
from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire.ops.records import OPS

PROVIDER = "reference"
DTYPES = ("float32", "bfloat16", "float16", "float64")
KV_DTYPES = (*DTYPES, "float8_e4m3fn")
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
READS_ON_HOST = frozenset({"kv_write", "paged_attention", "qkv_rope_write", "moe", "sample", "draw_tokens"})
"""References whose control flow depends on the data of tensors: they cannot be captured in a graph."""


def register_reference_kernels(table: KernelRegistrar) -> None:
    """Register the reference of every op, at priority 0: it serves where nothing else does."""
    for op in OPS:
        graph_safe = op.name not in READS_ON_HOST
        dtypes = KV_DTYPES if op.name == "block_copy" else DTYPES
        table.register(Kernel(op.name, PROVIDER, op.reference, dtypes, priority=0, graph_safe=graph_safe))


class ReferenceBackend:
    """The hooks. Option `max_in_flight` ("1" or "2"): steps submitted and not collected."""

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Claim what the references can do. Raise ConfigError on an option that does not exist."""
        return BackendCaps(
            device_type="cpu",
            dtypes=DTYPES,
            kv_dtypes=KV_DTYPES,
            memory=MemoryModel.UNIFIED,
            shapes=ShapeMode.DYNAMIC,
            graphs=GraphLevel.NONE,
            max_in_flight=_max_in_flight(selection),
            features=FEATURES,
            deterministic=True,
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Return the host's processors; every rank shares them."""
        return HostDevice()

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        """Allow any layout and block size; the list ends somewhere."""
        return KVConstraints(
            block_sizes=(16, 32, 64, 128, 256, 8, 4, 2, 1),
            layouts=(HEAD_MAJOR, SLOT_MAJOR, BLOCK_FIRST),
            dtypes=KV_DTYPES,
        )

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        """Hold the reference to every bound of the records."""
        return ConformanceProfile(levels=tuple(range(8)))

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        """Register the references."""
        register_reference_kernels(table)

    @hookimpl
    def quire_collect_env(self) -> dict[str, str]:
        """Return torch's version and what it uses of the processor."""
        return {
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "instruction set": torch.backends.cpu.get_cpu_capability(),
        }


PLUGIN = ReferenceBackend()


def _max_in_flight(selection: Selection) -> int:
    unknown = selection.options.keys() - {"max_in_flight"}
    if unknown:
        raise ConfigError(f"the reference backend has no option {sorted(unknown)}; it has max_in_flight (1 or 2)")
    value = selection.options.get("max_in_flight", "1")
    if value not in ("1", "2"):
        raise ConfigError(f"max_in_flight is {value!r}; the reference backend supports 1 or 2")
    return int(value)
