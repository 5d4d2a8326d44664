"""What both attention kernels are made of: one tile of keys met by a tile of query heads, in base 2 (FlashAttention-2,
Dao 2023).

The query heads of a KV head (its group) are packed into the rows of one matrix product, so that each key is read once
for all of them. Scores are kept in units of log2, so that exp2 serves; `maximum`, `total` and `acc` are the running
maximum, the sum of weights and the weighted sum of values of each row.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def load_page_tile(
    cache, block_row, positions, valid, dims, stride_block, stride_slot,
    BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """Load the keys or values [TILE, DIMS] of one head at `positions` of a row; 0 where not `valid`."""
    blocks = tl.load(block_row + positions // BLOCK_SIZE, mask=valid, other=0).to(tl.int64)
    starts = blocks * stride_block + (positions % BLOCK_SIZE).to(tl.int64) * stride_slot
    mask = valid[:, None]
    if HEAD_DIM != DIMS:
        mask = mask & (dims < HEAD_DIM)[None, :]
    return tl.load(cache + starts[:, None] + dims[None, :], mask=mask, other=0.0)


@triton.jit
def score(query, keys, scale, soft_cap, SOFT_CAP: tl.constexpr):
    """Return scores [ROWS, TILE] in units of log2."""
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
    if SOFT_CAP:
        scores = soft_cap * (1.0 - 2.0 / (1.0 + tl.exp2(scores * (2.0 * LOG2E / soft_cap))))
    return scores * LOG2E


@triton.jit
def absorb(scores, values, maximum, total, acc):
    """Add a tile of keys to the running softmax; a row that has seen no key yet keeps weight 0."""
    larger = tl.maximum(maximum, tl.max(scores, axis=1))
    anchor = tl.where(larger == NEVER, 0.0, larger)
    weights = tl.exp2(scores - anchor[:, None])
    shrink = tl.exp2(maximum - anchor)
    total = total * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(values.dtype), values, acc, input_precision="ieee")
    return larger, total, acc


@triton.jit
def finish(maximum, total, acc, sinks, heads, valid, SINKS: tl.constexpr):
    """Return the attention [ROWS, DIMS]: 0 for rows that saw no key. A sink adds weight and no value."""
    if SINKS:
        sink = tl.load(sinks + heads, mask=valid, other=NEVER).to(tl.float32) * LOG2E
        larger = tl.maximum(maximum, sink)
        anchor = tl.where(larger == NEVER, 0.0, larger)
        shrink = tl.exp2(maximum - anchor)
        total = total * shrink + tl.exp2(sink - anchor)
        acc = acc * shrink[:, None]
    return acc / tl.where(total == 0.0, 1.0, total)[:, None]
