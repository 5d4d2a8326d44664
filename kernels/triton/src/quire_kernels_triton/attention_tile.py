"""What both attention kernels are made of: one tile of keys met by a tile of query heads, in base 2 (FlashAttention-2,
Dao 2023).

The query heads of a KV head (its group) are packed into the rows of one matrix product, so that each key is read once
for all of them. The softmax is taken in units of log2, so that exp2 serves; `maximum` (in these units), `total` and
`acc` are the running maximum, the sum of weights and the weighted sum of values of each row.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def find_blocks(block_row, positions, last, BLOCK_SIZE: tl.constexpr):
    """Look up the block of each position before `last`; the table holds garbage after it."""
    return tl.load(block_row + positions // BLOCK_SIZE, mask=positions < last, other=0)


@triton.jit
def load_page_tile(
    cache, blocks, positions, last, dims, stride_block, stride_slot,
    BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Load the keys or values [TILE, DIMS] of one head at `positions`. MASKED: 0 from `last` on."""
    starts = blocks.to(tl.int64) * stride_block + (positions % BLOCK_SIZE).to(tl.int64) * stride_slot
    at = cache + starts[:, None] + dims[None, :]
    if MASKED:
        mask = (positions < last)[:, None]
        if HEAD_DIM != DIMS:
            mask = mask & (dims < HEAD_DIM)[None, :]
        tile = tl.load(at, mask=mask, other=0.0)
    elif HEAD_DIM != DIMS:
        tile = tl.load(at, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def halve(x):
    """Return the even and the odd columns of a matrix."""
    return tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))


@triton.jit
def dot_of_rows(x, y):
    """Return the dot products [ROWS, TILE] of rows. In float32, which the matrix units do not serve, each is the sum of
    four: one long chain of additions would lose more than the reference does, and take more registers."""
    if (x.dtype == tl.float32) and (x.shape[1] >= 64):
        x_even, x_odd = halve(x)
        y_even, y_odd = halve(y)
        x0, x2 = halve(x_even)
        y0, y2 = halve(y_even)
        x1, x3 = halve(x_odd)
        y1, y3 = halve(y_odd)
        lower = tl.dot(x0, tl.trans(y0), input_precision="ieee") + tl.dot(x1, tl.trans(y1), input_precision="ieee")
        upper = tl.dot(x2, tl.trans(y2), input_precision="ieee") + tl.dot(x3, tl.trans(y3), input_precision="ieee")
        products = lower + upper
    else:
        products = tl.dot(x, tl.trans(y), input_precision="ieee")
    return products


@triton.jit
def absorb(scores, values, factor, maximum, total, acc, MASKED: tl.constexpr):
    """Add a tile of keys to the running softmax. `factor`, above 0, brings scores to units of log2. MASKED: scores may
    be -inf; a row that has seen no key yet keeps weight 0."""
    larger = tl.maximum(maximum, tl.max(scores, axis=1) * factor)
    anchor = larger
    if MASKED:
        anchor = tl.where(larger == NEVER, 0.0, larger)
    weights = tl.exp2(scores * factor - anchor[:, None])
    shrink = tl.exp2(maximum - anchor)
    total = total * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(values.dtype), values, acc, input_precision="ieee")
    return larger, total, acc


@triton.jit
def attend(
    queries, positions, key_cache, value_cache, block_row, first, stop, last, scale, soft_cap, window,
    maximum, total, acc, kc_block, kc_slot, vc_block, vc_slot,
    BLOCK_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, COMPUTE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Absorb the keys from `first` up to `stop` and below `last`, tile by tile. MASKED: a query at position p sees keys
    up to p, with WINDOW the last `window` of them; else all queries see all of these keys, which fill the tiles."""
    dims = tl.arange(0, DIMS)
    # A tile's blocks are looked up one turn ahead: an address must not wait for a load of its own turn.
    blocks = find_blocks(block_row, first + tl.arange(0, TILE), last, BLOCK_SIZE)
    for at_key in tl.range(first, stop, TILE, num_stages=STAGES):
        keys_at = at_key + tl.arange(0, TILE)
        next_blocks = find_blocks(block_row, keys_at + TILE, last, BLOCK_SIZE)
        keys = load_page_tile(
            key_cache, blocks, keys_at, last, dims, kc_block, kc_slot, BLOCK_SIZE, HEAD_DIM, DIMS, MASKED
        )
        values = load_page_tile(
            value_cache, blocks, keys_at, last, dims, vc_block, vc_slot, BLOCK_SIZE, HEAD_DIM, DIMS, MASKED
        )
        blocks = next_blocks
        scores = dot_of_rows(queries, keys.to(COMPUTE))
        factor = scale * LOG2E
        if SOFT_CAP:
            scores = soft_cap * (1.0 - 2.0 / (1.0 + tl.exp2(scores * (scale * (2.0 * LOG2E / soft_cap)))))
            factor = LOG2E
        if MASKED:
            visible = keys_at[None, :] <= positions[:, None]
            if WINDOW:
                visible = visible & (keys_at[None, :] > positions[:, None] - window)
            scores = tl.where(visible, scores, NEVER)
        maximum, total, acc = absorb(scores, values.to(COMPUTE), factor, maximum, total, acc, MASKED)
    return maximum, total, acc


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
