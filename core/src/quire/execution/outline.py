"""Kernels that make what a step holds and compute next to nothing: with them a step of any size is planned in no time.

A backend's kernel is taken to make its outputs; a composite to make those of all its parts, unless it is `lean`. The
reference is pure torch and runs as it is, so that what it makes on the way counts too, except where it would take long.

Host memory that is never touched costs nothing, so the tensors here may be as large as they like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from quire.backend.contract import Kernel
from quire.backend.reference import PROVIDER, register_reference_kernels
from quire.execution.live_bytes import LiveBytes
from quire.ops import reference
from quire.ops.records import OPS
from quire.ops.reference.attention import QUERY_TILE
from quire.ops.reference.precision import wide
from quire.ops.spec import AttentionBatch
from quire.ops.table import KernelTable

FLOATS = ("float32", "bfloat16", "float16", "float64")


def outlined(table: KernelTable) -> KernelTable:
    """Return the table with every kernel replaced by its outline. Composites are left to their parts."""
    made = KernelTable(table.ops.values())
    for kernel in table.kernels():
        if kernel.provider == PROVIDER:
            made.register(replace(kernel, function=OF_THE_REFERENCE.get(kernel.op, kernel.function)))
        elif kernel.lean and kernel.op in LEAN:
            made.register(replace(kernel, function=LEAN[kernel.op]))
        elif kernel.op in OUTLINES:
            made.register(replace(kernel, function=OUTLINES[kernel.op]))
    return made


def outlined_unseen(provider: str) -> KernelTable:
    """Return the table of a backend whose kernels cannot be imported here: it is taken to have them all."""
    table = KernelTable(OPS)
    register_reference_kernels(table)
    for op in OUTLINES:
        table.register(Kernel(op, provider, OUTLINES[op], FLOATS))
    return outlined(table)


# -- a backend's kernels: outputs alone --------------------------------------------------------------------------------


def _embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight.new_empty(ids.shape[0], weight.shape[1])


def _rms_norm(x: torch.Tensor, *args: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _add_rms_norm(x: torch.Tensor, residual: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(residual)


def _rope(query: torch.Tensor, key: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return query, key


def _kv_write(*args: Any) -> None:
    return None


def _gated(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _attention(query: torch.Tensor, *args: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


def _moe(
    x: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Two grouped products, then their sum: every pair of a token and its expert has a row of each."""
    inner = x.new_empty(experts.numel(), down.shape[2])
    outer = inner.new_empty(experts.numel(), down.shape[1])
    return outer.new_empty(x.shape)


def _sample(logits: torch.Tensor, *args: Any) -> torch.Tensor:
    return torch.zeros(logits.shape[0], dtype=torch.int64)


def _select_rows(hidden: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden.new_empty(len(index), hidden.shape[1]), hidden.new_empty(len(index), dtype=torch.bool)


OUTLINES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add_rms_norm": _add_rms_norm,
        "embedding": _embedding,
        "gelu_and_mul": _gated,
        "gelu_tanh_and_mul": _gated,
        "kv_write": _kv_write,
        "linear": _linear,
        "moe": _moe,
        "paged_attention": _attention,
        "rms_norm": _rms_norm,
        "rope": _rope,
        "sample": _sample,
        "select_rows": _select_rows,
        "silu_and_mul": _gated,
    }
)
"""By op: what is made where a backend has a kernel."""


def _lean_add_rms_norm(x: torch.Tensor, residual: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x, residual


def _lean_norm_linear(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    width = weight.shape[0] if activation is None else weight.shape[0] // 2
    return x.new_empty(x.shape[0], width), x if residual is None else residual


def _lean_moe(x: torch.Tensor, *args: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _lean_qkv_rope_write(qkv: torch.Tensor, *args: Any) -> torch.Tensor:
    """The query is a tensor of its own, so that what it was made of can be given back."""
    *_, key_cache, _, _ = args
    _, num_kv_heads, _, head_dim = key_cache.shape
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // head_dim - 2 * num_kv_heads, head_dim)


LEAN: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add_rms_norm": _lean_add_rms_norm,
        "moe": _lean_moe,
        "norm_linear": _lean_norm_linear,
        "qkv_rope_write": _lean_qkv_rope_write,
    }
)


# -- the reference, where it would take long ---------------------------------------------------------------------------


def _reference_attention(
    query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, batch: AttentionBatch, *args: Any
) -> torch.Tensor:
    """Rows come one by one: keys and values, gathered and widened, then tiles of scores, thrice."""
    out = query.new_empty(query.shape)
    pages = -(-batch.max_seq_len // key_cache.shape[2]) * key_cache.shape[2]
    width = wide(query.dtype)
    gathered = [query.new_empty(2, key_cache.shape[1], pages, key_cache.shape[3], dtype=width)]
    gathered.append(gathered[0].new_empty(gathered[0].shape))
    tile = min(QUERY_TILE, batch.max_query_len)
    gathered.append(query.new_empty(3, query.shape[1], tile, batch.max_seq_len, dtype=width))
    return out


def _reference_moe(
    x: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """All tokens go to the same expert: as much as it can ever hold at once."""
    out = x.new_empty(x.shape, dtype=wide(x.dtype))
    hidden = reference.silu_and_mul(_linear(torch.empty_like(x), gate_up[0]))
    product = _linear(hidden, down[0])
    if product.dtype != out.dtype:
        product = product.new_empty(product.shape, dtype=out.dtype)
    del hidden, product
    return out if out.dtype == x.dtype else torch.empty_like(x)


def _reference_sample(logits: torch.Tensor, *settings: Any) -> torch.Tensor:
    """Draw one row and two for real: each further row takes as much as the second."""
    one, two = (_peak_of_sampling(rows, logits.shape[1]) for rows in (1, 2))
    logits.new_empty(one + (logits.shape[0] - 1) * (two - one), dtype=torch.uint8)
    return _sample(logits)


def _peak_of_sampling(num_rows: int, vocab_size: int) -> int:
    ones = torch.ones(num_rows)
    seeds = torch.zeros(num_rows, dtype=torch.int64)
    live = LiveBytes()
    with live:
        reference.sample(torch.zeros(num_rows, vocab_size), ones, 5 * ones.int(), ones / 2, 0 * ones, seeds, seeds)
    return live.peak - num_rows * vocab_size * 4  # the logits are not its own


OF_THE_REFERENCE: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"linear": _linear, "moe": _reference_moe, "paged_attention": _reference_attention, "sample": _reference_sample}
)
