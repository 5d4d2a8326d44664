"""Put the kernels into a kernel table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from quire.backend.contract import Kernel, KernelRegistrar, KernelRequest
from quire_kernels_triton import activations, cache, embedding, norms, rotary, sampling, step
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.linear import Linear
from quire_kernels_triton.moe import MixtureOfExperts
from quire_kernels_triton.tuning import Target, detect

FLOATS = ("bfloat16", "float16", "float32")
MAX_HEAD_DIM = 256
MAX_HIDDEN_SIZE = 1 << 15
MAX_VOCAB_SIZE = 1 << 20
MAX_EXPERTS = 1024
FLOAT8 = "float8_e4m3fn"
WITHOUT_FLOAT8 = ("sm_80", "sm_86", "sm_87", "sm_89")  # the last has it, but Triton has no conversion to bfloat16 there


def register_kernels(table: KernelRegistrar, provider: str = "triton", target: Target | None = None) -> None:
    """Register every kernel, for `target` or else the current GPU. None reads anything back to the host."""
    target = target or detect()
    linear, launch = Linear(target), target.launch
    cache_dtypes = FLOATS if target.family in WITHOUT_FLOAT8 else (*FLOATS, FLOAT8)
    heads = partial(_heads, cache_dtypes)
    entries: list[tuple[str, Callable[..., Any], Callable[[KernelRequest], Sequence[str]]]] = [
        ("embedding", partial(embedding.embedding, launch=launch), _any),
        ("rms_norm", partial(norms.rms_norm, launch=launch), _hidden_size),
        ("add_rms_norm", partial(norms.add_rms_norm, launch=launch), _hidden_size),
        ("rope", rotary.rope, heads),
        ("kv_write", cache.kv_write, heads),
        ("qkv_rope_write", partial(rotary.qkv_rope_write, launch=launch), heads),
        ("paged_attention", PagedAttention(target), heads),
        ("linear", linear.linear, _any),
        ("select_rows", partial(step.select_rows, launch=launch), _any),
        ("norm_linear", linear.norm_linear, _gated),
        ("moe", MixtureOfExperts(target), _experts),
    ]
    entries += [(op, activations.gated(op, launch), _any) for op in activations.KINDS]
    for op, function, constraint in entries:
        table.register(Kernel(op, provider, function, FLOATS, constraint))
    table.register(Kernel("block_copy", provider, cache.block_copy, cache_dtypes))
    sampler = sampling.Sample(target)
    table.register(Kernel("sample", provider, sampler.sample, FLOATS, _vocab_size))
    table.register(Kernel("draw_tokens", provider, sampler.draw_tokens, FLOATS, _vocab_size))
    table.register(Kernel("gather_step", provider, partial(step.gather_step, launch=launch), ("float32",)))
    table.register(Kernel("apply_penalties", provider, sampling.apply_penalties, ("float32",)))


def _gated(request: KernelRequest) -> Sequence[str]:
    activation = request.attributes.get("activation")
    if activation is None or activation in activations.KINDS:
        return ()
    return (f"activation {activation} is not one of {', '.join(activations.KINDS)}",)


def _any(request: KernelRequest) -> Sequence[str]:
    return ()


def _hidden_size(request: KernelRequest) -> Sequence[str]:
    return _at_most(request, "hidden_size", MAX_HIDDEN_SIZE)


def _vocab_size(request: KernelRequest) -> Sequence[str]:
    return _at_most(request, "vocab_size", MAX_VOCAB_SIZE)


def _experts(request: KernelRequest) -> Sequence[str]:
    return _at_most(request, "num_experts", MAX_EXPERTS)


def _heads(cache_dtypes: Sequence[str], request: KernelRequest) -> Sequence[str]:
    reasons = [*_at_most(request, "head_dim", MAX_HEAD_DIM)]
    kv_dtype = request.attributes.get("kv_dtype")
    if kv_dtype is not None and kv_dtype not in cache_dtypes:
        reasons.append(f"kv_dtype {kv_dtype} is not one of {', '.join(cache_dtypes)}")
    return reasons


def _at_most(request: KernelRequest, name: str, limit: int) -> Sequence[str]:
    value = request.attributes.get(name, 0)
    return (f"{name} {value} is more than {limit}",) if value > limit else ()
