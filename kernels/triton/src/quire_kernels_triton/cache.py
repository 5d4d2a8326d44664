"""Writing to the paged KV cache: kv_write, block_copy.

Caches are canonical strided views ``[num_blocks, num_kv_heads, block_size, D]``; slot = block * block_size + offset.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def slot_offset(slot, stride_block, stride_slot, BLOCK_SIZE: tl.constexpr):
    """Return where a slot's first head begins, in elements."""
    return (slot // BLOCK_SIZE).to(tl.int64) * stride_block + (slot % BLOCK_SIZE).to(tl.int64) * stride_slot


@triton.jit
def narrowed(x, dtype: tl.constexpr):
    """Round x to a cache's dtype; what is too large for float8 becomes its largest number."""
    if dtype == tl.float8e4nv:
        wide = x.to(tl.float32)
        x = tl.where(tl.abs(wide) > 448.0, tl.where(wide > 0, 448.0, -448.0), wide)
    return x.to(dtype)


@triton.jit
def kv_write_kernel(
    key, value, key_cache, value_cache, slots, num_heads,
    key_token, key_head, value_token, value_head,
    kc_block, kc_head, kc_slot, vc_block, vc_head, vc_slot,
    BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, HEADS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Write all heads of one token."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot >= 0:
        heads, dims = tl.arange(0, HEADS).to(tl.int64), tl.arange(0, DIMS)
        mask = (heads < num_heads)[:, None] & (dims < HEAD_DIM)[None, :]
        keys = tl.load(key + token * key_token + heads[:, None] * key_head + dims[None, :], mask=mask)
        values = tl.load(value + token * value_token + heads[:, None] * value_head + dims[None, :], mask=mask)
        key_at = slot_offset(slot, kc_block, kc_slot, BLOCK_SIZE) + heads[:, None] * kc_head + dims[None, :]
        value_at = slot_offset(slot, vc_block, vc_slot, BLOCK_SIZE) + heads[:, None] * vc_head + dims[None, :]
        tl.store(key_cache + key_at, narrowed(keys, key_cache.dtype.element_ty), mask=mask)
        tl.store(value_cache + value_at, narrowed(values, value_cache.dtype.element_ty), mask=mask)


@triton.jit
def block_copy_kernel(
    key_cache, value_cache, pairs,
    kc_block, kc_head, kc_slot, vc_block, vc_head, vc_slot,
    BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, SLOTS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Copy one head of one block."""
    pair, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    source, target = tl.load(pairs + 2 * pair).to(tl.int64), tl.load(pairs + 2 * pair + 1).to(tl.int64)
    slots, dims = tl.arange(0, SLOTS).to(tl.int64), tl.arange(0, DIMS)
    mask = (slots < BLOCK_SIZE)[:, None] & (dims < HEAD_DIM)[None, :]
    key_at = head * kc_head + slots[:, None] * kc_slot + dims[None, :]
    value_at = head * vc_head + slots[:, None] * vc_slot + dims[None, :]
    keys = tl.load(key_cache + source * kc_block + key_at, mask=mask)
    values = tl.load(value_cache + source * vc_block + value_at, mask=mask)
    tl.store(key_cache + target * kc_block + key_at, keys, mask=mask)
    tl.store(value_cache + target * vc_block + value_at, values, mask=mask)


def kv_write(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Write key and value [T, Hk, D] to `slots` [T]; a negative slot is left out. Mutates the caches."""
    num_tokens, num_heads, head_dim = key.shape
    if num_tokens:
        kv_write_kernel[(num_tokens,)](
            key, value, key_cache, value_cache, slots, num_heads,
            key.stride(0), key.stride(1), value.stride(0), value.stride(1),
            *key_cache.stride()[:3], *value_cache.stride()[:3],
            BLOCK_SIZE=key_cache.shape[2], HEAD_DIM=head_dim,
            HEADS=triton.next_power_of_2(num_heads), DIMS=triton.next_power_of_2(head_dim), num_warps=4,
        )  # fmt: skip


def block_copy(key_cache: torch.Tensor, value_cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy block ``pairs[i, 0]`` over block ``pairs[i, 1]``; pairs is [n, 2] int64. Mutates the caches."""
    _, num_heads, block_size, head_dim = key_cache.shape
    if len(pairs):
        block_copy_kernel[(len(pairs), num_heads)](
            key_cache, value_cache, pairs.contiguous(), *key_cache.stride()[:3], *value_cache.stride()[:3],
            BLOCK_SIZE=block_size, HEAD_DIM=head_dim,
            SLOTS=triton.next_power_of_2(block_size), DIMS=triton.next_power_of_2(head_dim), num_warps=4,
        )  # fmt: skip
