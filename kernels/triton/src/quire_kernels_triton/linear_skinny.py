"""linear of a few tokens on the matrix units: the weight streams through shared memory once, split over its inner axis
so that all processors pull on memory. The last program of an output tile to end adds up the splits, in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.activations import activate
from quire_kernels_triton.launching import start_next, wait_for_inputs


@triton.jit
def sum_splits(parts, tile, num_tiles, SPLITS: tl.constexpr, TOKENS: tl.constexpr, OUT: tl.constexpr):
    """Return the sum [TOKENS, OUT] of an output tile's parts."""
    lanes = tl.arange(0, TOKENS)[:, None] * OUT + tl.arange(0, OUT)[None, :]
    acc = tl.zeros([TOKENS, OUT], tl.float32)
    for split in range(SPLITS):
        acc += tl.load(parts + (split * num_tiles + tile) * (TOKENS * OUT) + lanes, cache_modifier=".cg")
    return acc


@triton.jit
def write_tile(acc, up_acc, bias, out, tokens, rows, num_tokens, out_features, GATE: tl.constexpr, BIAS: tl.constexpr):
    """Add the bias, activate, and write an output tile."""
    inside = rows < out_features
    if BIAS:
        acc += tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32)[None, :]
        if GATE:
            up_acc += tl.load(bias + out_features + rows, mask=inside, other=0.0).to(tl.float32)[None, :]
    if GATE:
        acc = activate(acc, GATE) * up_acc
    at = tokens.to(tl.int64)[:, None] * out_features + rows[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=(tokens < num_tokens)[:, None] & inside[None, :])


@triton.jit
def product(weights, tokens, acc, SWAP: tl.constexpr):
    """Add the product of tiles of weight rows and of tokens to acc."""
    return tl.dot(weights, tl.trans(tokens), acc) if SWAP else tl.dot(tokens, tl.trans(weights), acc)


@triton.jit(do_not_specialize=["num_tokens", "out_features"])
def skinny_kernel(
    x, weight, bias, out, parts, counters, num_tokens, out_features, in_features, x_stride, weight_stride,
    GATE: tl.constexpr, BIAS: tl.constexpr, EVEN: tl.constexpr,
    TOKENS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr,
    SWAP: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute one split of one tile of OUT outputs for TOKENS tokens. EVEN: INNER divides in_features. SWAP: the weight
    is the left operand, whose tiles have at least 64 rows where matrix units work on groups of warps."""
    out_tiles, token_tile, num_tiles = tl.num_programs(0), tl.program_id(2), tl.num_programs(0) * tl.num_programs(2)
    split, tile = tl.program_id(1), token_tile * out_tiles + tl.program_id(0)
    rows, tokens = tl.program_id(0) * OUT + tl.arange(0, OUT), token_tile * TOKENS + tl.arange(0, TOKENS)
    here, inside = (tokens < num_tokens)[:, None], (rows < out_features)[:, None]
    share = tl.cdiv(tl.cdiv(in_features, INNER), SPLITS) * INNER
    begin, end = split * share, tl.minimum((split + 1) * share, in_features)
    x_rows = x + tokens.to(tl.int64)[:, None] * x_stride
    weight_rows = weight + rows.to(tl.int64)[:, None] * weight_stride
    up_rows = weight_rows + out_features.to(tl.int64) * weight_stride
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    ROWS: tl.constexpr = OUT if SWAP else TOKENS
    COLUMNS: tl.constexpr = TOKENS if SWAP else OUT
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    up_acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in tl.range(begin, end, INNER, num_stages=STAGES):
        columns = first + tl.arange(0, INNER)[None, :]
        if EVEN:
            values = tl.load(x_rows + columns, mask=here, other=0.0)
            block = tl.load(weight_rows + columns, mask=inside, other=0.0)
        else:
            values = tl.load(x_rows + columns, mask=here & (columns < in_features), other=0.0)
            block = tl.load(weight_rows + columns, mask=inside & (columns < in_features), other=0.0)
        acc = product(block, values, acc, SWAP)
        if GATE:
            if EVEN:
                block = tl.load(up_rows + columns, mask=inside, other=0.0)
            else:
                block = tl.load(up_rows + columns, mask=inside & (columns < in_features), other=0.0)
            up_acc = product(block, values, up_acc, SWAP)
    if SWAP:
        acc, up_acc = tl.trans(acc), tl.trans(up_acc)
    if SPLITS == 1:
        write_tile(acc, up_acc, bias, out, tokens, rows, num_tokens, out_features, GATE, BIAS)
    else:
        lanes = tl.arange(0, TOKENS)[:, None] * OUT + tl.arange(0, OUT)[None, :]
        at = (split * num_tiles + tile) * (TOKENS * OUT) + lanes
        up_parts = parts + SPLITS * num_tiles * (TOKENS * OUT)
        tl.store(parts + at, acc)
        if GATE:
            tl.store(up_parts + at, up_acc)
        tl.debug_barrier()  # every thread's part is written before the one that counts says so
        if tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == SPLITS - 1:
            tl.debug_barrier()
            tl.store(counters + tile, 0)
            whole = sum_splits(parts, tile, num_tiles, SPLITS, TOKENS, OUT)
            up_whole = whole
            if GATE:
                up_whole = sum_splits(up_parts, tile, num_tiles, SPLITS, TOKENS, OUT)
            write_tile(whole, up_whole, bias, out, tokens, rows, num_tokens, out_features, GATE, BIAS)
