"""Writing to the paged KV cache. Caches are canonical strided views ``[num_blocks, num_kv_heads, block_size, D]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from quire.backend.contract import KernelRequest
from quire.ops.reference.norms import rms_norm
from quire.ops.reference.precision import narrowed
from quire.ops.reference.rotary import rope
from quire.ops.spec import Bind


def kv_write(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Write key and value [T, Hk, D] to `slots` [T], rounded to the cache's dtype; a negative slot is left out.

    Mutates key_cache, value_cache.
    """
    real = slots >= 0
    block_size = key_cache.shape[2]
    blocks, offsets = slots[real] // block_size, slots[real] % block_size
    key_cache[blocks, :, offsets] = narrowed(key[real], key_cache.dtype)
    value_cache[blocks, :, offsets] = narrowed(value[real], value_cache.dtype)


def block_copy(key_cache: torch.Tensor, value_cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy block ``pairs[i, 0]`` over block ``pairs[i, 1]``; pairs is [n, 2] int64.

    Mutates key_cache, value_cache.
    """
    sources, targets = pairs.unbind(1)
    key_cache[targets] = key_cache[sources]
    value_cache[targets] = value_cache[sources]


class Heads(NamedTuple):
    """The three parts of a fused projection, as views: query [T, Hq, D], key and value [T, Hk, D]."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


def split_heads(qkv: torch.Tensor, num_kv_heads: int, head_dim: int) -> Heads:
    """Split qkv [T, (Hq + 2 Hk) * D] into views by head."""
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    return Heads(*heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1))


def qkv_rope_write(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Split qkv [T, (Hq + 2 Hk) * D], norm each head of query and key if weights are given, rope, write KV.

    Mutates key_cache, value_cache. Returns query [T, Hq, D].
    """
    steps = _Steps(rms_norm, rope, kv_write)
    return steps.run(qkv, positions, cos_sin, q_norm, k_norm, eps, key_cache, value_cache, slots)


def compose_qkv_rope_write(request: KernelRequest, bind: Bind) -> Callable[..., Any]:
    """Build qkv_rope_write from rms_norm (unless the request says `qk_norm` False), rope and kv_write, as bound."""
    asked = request.attributes

    def part(op: str, *names: str, **attributes: Any) -> Callable[..., Any]:
        known = {name: asked[name] for name in names if name in asked}
        return bind(KernelRequest(op, request.dtype, {**known, **attributes}))

    sizes = {"hidden_size": asked["head_dim"]} if "head_dim" in asked else {}
    norm = part("rms_norm", **sizes) if asked.get("qk_norm", True) else rms_norm
    rotate = part("rope", "num_heads", "num_kv_heads", "head_dim", "rotary_dim")
    write = part("kv_write", "num_kv_heads", "head_dim", "block_size", "kv_dtype")
    return _Steps(norm, rotate, write).run


class _Steps(NamedTuple):
    rms_norm: Callable[..., Any]
    rope: Callable[..., Any]
    kv_write: Callable[..., Any]

    def run(
        self,
        qkv: torch.Tensor,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
        eps: float,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        query, key, value = split_heads(qkv, key_cache.shape[1], key_cache.shape[3])
        if q_norm is not None:
            query = self.rms_norm(query, q_norm, eps)
        if k_norm is not None:
            key = self.rms_norm(key, k_norm, eps)
        query, key = self.rope(query, key, positions, cos_sin)
        self.kv_write(key, value, key_cache, value_cache, slots)
        return query
