"""rope, and qkv_rope_write: split a fused projection, norm the heads of q and k, rotate, write KV, in one launch.

A head is handled as three tiles: the two halves that rotate against each other, and the dims that pass through; so
a thread owns both numbers of a pair, and results may go where the inputs came from.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire_kernels_triton.cache import narrowed, slot_offset
from quire_kernels_triton.launching import Launch, in_order, start_next, wait_for_inputs

HEADS = 4  # heads a program


@triton.jit
def rotate_heads(
    x, out, weight, cos_sin, heads, num_heads, head_stride, out_head_stride, eps,
    NORM: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Norm and rotate the `heads` of one token, from x to out, rounding to x's dtype on the way. HALF and REST are
    powers of two that hold the pairs and the dims that pass through; 0: there are none."""
    here = (heads < num_heads)[:, None]
    dtype = x.dtype.element_ty
    squares = tl.zeros([heads.shape[0]], tl.float32)
    if HALF > 0:
        pairs = tl.arange(0, HALF)
        paired = here & (pairs < ROTARY // 2)[None, :]
        at = x + heads[:, None] * head_stride + pairs[None, :]
        first = tl.load(at, mask=paired, other=0.0).to(tl.float32)
        second = tl.load(at + ROTARY // 2, mask=paired, other=0.0).to(tl.float32)
        squares += tl.sum(first * first + second * second, axis=1)
    if REST > 0:
        rest = ROTARY + tl.arange(0, REST)
        passing = here & (rest < HEAD_DIM)[None, :]
        third = tl.load(x + heads[:, None] * head_stride + rest[None, :], mask=passing, other=0.0).to(tl.float32)
        squares += tl.sum(third * third, axis=1)
    if NORM:
        scale = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
    if HALF > 0:
        if NORM:
            first *= scale * tl.load(weight + pairs, mask=pairs < ROTARY // 2, other=0.0).to(tl.float32)[None, :]
            gain = tl.load(weight + ROTARY // 2 + pairs, mask=pairs < ROTARY // 2, other=0.0)
            second *= scale * gain.to(tl.float32)[None, :]
        cos = tl.load(cos_sin + pairs, mask=pairs < ROTARY // 2, other=0.0)[None, :]
        sin = tl.load(cos_sin + ROTARY // 2 + pairs, mask=pairs < ROTARY // 2, other=0.0)[None, :]
        to = out + heads[:, None] * out_head_stride + pairs[None, :]
        tl.store(to, narrowed((first * cos - second * sin).to(dtype), out.dtype.element_ty), mask=paired)
        tl.store(to + ROTARY // 2, narrowed((second * cos + first * sin).to(dtype), out.dtype.element_ty), mask=paired)
    if REST > 0:
        if NORM:
            third *= scale * tl.load(weight + rest, mask=rest < HEAD_DIM, other=0.0).to(tl.float32)[None, :]
        to = out + heads[:, None] * out_head_stride + rest[None, :]
        tl.store(to, narrowed(third.to(dtype), out.dtype.element_ty), mask=passing)


@triton.jit
def copy_heads(x, out, heads, num_heads, head_stride, out_head_stride, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr):
    """Copy the `heads` of one token from x to out."""
    dims = tl.arange(0, DIMS)
    mask = (heads < num_heads)[:, None] & (dims < HEAD_DIM)[None, :]
    values = tl.load(x + heads[:, None] * head_stride + dims[None, :], mask=mask)
    tl.store(out + heads[:, None] * out_head_stride + dims[None, :], narrowed(values, out.dtype.element_ty), mask=mask)


@triton.jit
def qkv_rope_write_kernel(
    qkv, positions, cos_sin, q_norm, k_norm, key_cache, value_cache, slots,
    num_heads, num_kv_heads, eps, qkv_stride, cos_sin_stride,
    kc_block, kc_head, kc_slot, vc_block, vc_head, vc_slot,
    Q_NORM: tl.constexpr, K_NORM: tl.constexpr, BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr,
    ROTARY: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, DIMS: tl.constexpr, HEADS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Handle HEADS heads of one token, all query, all key or all value. Query is rotated in place."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_parts, kv_parts = tl.cdiv(num_heads, HEADS), tl.cdiv(num_kv_heads, HEADS)
    qkv += token * qkv_stride
    table = cos_sin + tl.load(positions + token).to(tl.int64) * cos_sin_stride
    slot = tl.load(slots + token)
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    if part < q_parts:
        heads = (part * HEADS + tl.arange(0, HEADS)).to(tl.int64)
        rotate_heads(
            qkv, qkv, q_norm, table, heads, num_heads, HEAD_DIM, HEAD_DIM, eps, Q_NORM, HEAD_DIM, ROTARY, HALF, REST
        )
    elif slot >= 0:
        if part < q_parts + kv_parts:
            heads = ((part - q_parts) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
            to = key_cache + slot_offset(slot, kc_block, kc_slot, BLOCK_SIZE)
            keys = qkv + num_heads * HEAD_DIM
            rotate_heads(
                keys, to, k_norm, table, heads, num_kv_heads, HEAD_DIM, kc_head, eps,
                K_NORM, HEAD_DIM, ROTARY, HALF, REST,
            )  # fmt: skip
        else:
            heads = ((part - q_parts - kv_parts) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
            to = value_cache + slot_offset(slot, vc_block, vc_slot, BLOCK_SIZE)
            values = qkv + (num_heads + num_kv_heads) * HEAD_DIM
            copy_heads(values, to, heads, num_kv_heads, HEAD_DIM, vc_head, HEAD_DIM, DIMS)


@triton.jit
def rope_kernel(
    query, key, positions, cos_sin, num_heads, num_kv_heads,
    query_token, query_head, key_token, key_head, cos_sin_stride,
    HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Rotate HEADS heads of one token in place, all of the query or all of the key."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_parts = tl.cdiv(num_heads, HEADS)
    table = cos_sin + tl.load(positions + token).to(tl.int64) * cos_sin_stride
    if part < q_parts:
        x = query + token * query_token
        heads = (part * HEADS + tl.arange(0, HEADS)).to(tl.int64)
        rotate_heads(
            x, x, cos_sin, table, heads, num_heads, query_head, query_head, 0.0, False, HEAD_DIM, ROTARY, HALF, REST
        )
    else:
        x = key + token * key_token
        heads = ((part - q_parts) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
        rotate_heads(
            x, x, cos_sin, table, heads, num_kv_heads, key_head, key_head, 0.0, False, HEAD_DIM, ROTARY, HALF, REST
        )


def rope(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate query [T, Hq, D] and key [T, Hk, D] in place, and return them."""
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads = key.shape[1]
    if num_tokens:
        grid = (num_tokens, triton.cdiv(num_heads, HEADS) + triton.cdiv(num_kv_heads, HEADS))
        rope_kernel[grid](
            query, key, positions, cos_sin, num_heads, num_kv_heads,
            query.stride(0), query.stride(1), key.stride(0), key.stride(1), cos_sin.stride(0),
            HEAD_DIM=head_dim, **_rotary_tiles(head_dim, cos_sin.shape[1]), HEADS=HEADS, num_warps=2,
        )  # fmt: skip
    return query, key


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
    launch: Launch = in_order,
) -> torch.Tensor:
    """Split qkv [T, (Hq + 2 Hk) * D], norm each head of query and key if weights are given, rope, write KV.

    Mutates key_cache, value_cache, and qkv: the query [T, Hq, D] that is returned is a view of it.
    """
    num_tokens, (_, num_kv_heads, block_size, head_dim) = qkv.shape[0], key_cache.shape
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    if num_tokens:
        grid = (num_tokens, triton.cdiv(num_heads, HEADS) + 2 * triton.cdiv(num_kv_heads, HEADS))
        qkv_rope_write_kernel[grid](
            qkv, positions, cos_sin, qkv if q_norm is None else q_norm, qkv if k_norm is None else k_norm,
            key_cache, value_cache, slots, num_heads, num_kv_heads, eps, qkv.stride(0), cos_sin.stride(0),
            *key_cache.stride()[:3], *value_cache.stride()[:3],
            Q_NORM=q_norm is not None, K_NORM=k_norm is not None, BLOCK_SIZE=block_size, HEAD_DIM=head_dim,
            **_rotary_tiles(head_dim, cos_sin.shape[1]), DIMS=triton.next_power_of_2(head_dim), HEADS=HEADS,
            num_warps=2, **launch(num_tokens),
        )  # fmt: skip
    return qkv.as_strided((num_tokens, num_heads, head_dim), (qkv.stride(0), head_dim, 1))


def _rotary_tiles(head_dim: int, rotary_dim: int) -> dict[str, int]:
    """Return the rotated width, and the powers of two that hold its half and what passes through."""
    half, rest = rotary_dim // 2, head_dim - rotary_dim
    padded = [triton.next_power_of_2(count) if count else 0 for count in (half, rest)]
    return {"ROTARY": rotary_dim, "HALF": padded[0], "REST": padded[1]}
