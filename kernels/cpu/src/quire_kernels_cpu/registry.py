"""Offering the kernels to a backend's table."""

from __future__ import annotations

from collections.abc import Sequence

from quire.backend.contract import Kernel, KernelRegistrar, KernelRequest, WeightTransform
from quire_kernels_cpu.kernels import SCRATCH_BYTES, CpuKernels

FLOATS = ("float32", "bfloat16", "float16")
MAX_HEAD_DIM = 512
SERVED = (
    "embedding",
    "rms_norm",
    "add_rms_norm",
    "rope",
    "kv_write",
    "paged_attention",
    "qkv_rope_write",
    "silu_and_mul",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "linear",
    "norm_linear",
    "moe",
    "select_rows",
)
LEAN = ("add_rms_norm", "norm_linear", "moe", "qkv_rope_write")
WORKSPACES = {"linear": SCRATCH_BYTES, "norm_linear": SCRATCH_BYTES, "moe": 3 * 4 * (1 << 23)}
"""Bytes that the calling thread keeps; moe lays out so many elements before, between and after its products (moe.h)."""
SERVED_IN_FLOAT32 = ("gather_step", "sample", "draw_tokens", "apply_penalties")


def register(table: KernelRegistrar, kernels: CpuKernels, provider: str = "cpu") -> None:
    """Register every kernel as `provider`'s."""
    for op in SERVED:
        table.register(
            Kernel(
                op,
                provider,
                getattr(kernels, op),
                FLOATS,
                CONSTRAINTS.get(op, _accept),
                workspace_bytes=WORKSPACES.get(op, 0),
                lean=op in LEAN,
            )
        )
    for op in SERVED_IN_FLOAT32:
        table.register(Kernel(op, provider, getattr(kernels, op), ("float32",)))


def register_transforms(table: KernelRegistrar, kernels: CpuKernels, provider: str = "cpu") -> None:
    """Register the packing of projections, for kernels that `register` has offered as `provider`'s."""
    for op in ("linear", "norm_linear"):
        table.register_transform(WeightTransform(op, provider, kernels.pack_weight))


def _accept(request: KernelRequest) -> Sequence[str]:
    return ()


def _head_dim(request: KernelRequest) -> Sequence[str]:
    head_dim = request.attributes.get("head_dim", 0)
    return () if head_dim <= MAX_HEAD_DIM else (f"head_dim {head_dim} is over {MAX_HEAD_DIM}",)


def _cache(request: KernelRequest) -> Sequence[str]:
    kv_dtype = request.attributes.get("kv_dtype", request.dtype)
    reasons = () if kv_dtype in FLOATS else (f"a KV cache of {kv_dtype}; served are {', '.join(FLOATS)}",)
    return (*reasons, *_head_dim(request))


CONSTRAINTS = {"kv_write": _cache, "paged_attention": _cache, "qkv_rope_write": _cache}
