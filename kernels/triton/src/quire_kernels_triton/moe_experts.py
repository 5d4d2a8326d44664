"""The products of a mixture of experts, a block of pairs of one expert at a time, and the sum over each token's."""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.activations import activate
from quire_kernels_triton.launching import start_next, wait_for_inputs


@triton.jit
def load_tile(base, columns, inside, in_features, EVEN: tl.constexpr):
    """Load a tile of rows at `columns`; 0 outside."""
    mask = inside if EVEN else inside & (columns < in_features)
    return tl.load(base + columns, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["out_features"])
def experts_kernel(
    x, weight, out, experts, block_expert, block_rows, pair_of_slot,
    out_features, in_features, x_stride, expert_stride, weight_stride,
    SHARE: tl.constexpr, GATE: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr, STAGES: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute OUT outputs of one block's pairs: out[p] is the expert's product of ``x[p // SHARE]``. GATE: silu of
    that, times the product with the rows out_features further on. Not ALIGNED: block p is pair p alone."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    block, lanes = tl.program_id(0), tl.arange(0, ROWS)
    if ALIGNED:
        num_rows = tl.load(block_rows + block)
        expert = tl.load(block_expert + block).to(tl.int64)
        here = lanes < num_rows
        pairs = tl.load(pair_of_slot + block * ROWS + lanes, mask=here, other=0).to(tl.int64)
    else:
        num_rows = 1
        expert = tl.load(experts + block).to(tl.int64)
        here = lanes < 1
        pairs = (block + lanes).to(tl.int64)
    if num_rows > 0:
        features = tl.program_id(1) * OUT + tl.arange(0, OUT)
        inside = (features < out_features)[:, None]
        x_rows = x + (pairs // SHARE)[:, None] * x_stride
        weight_rows = weight + expert * expert_stride + features.to(tl.int64)[:, None] * weight_stride
        up_rows = weight_rows + out_features.to(tl.int64) * weight_stride
        acc = tl.zeros([ROWS, OUT], tl.float32)
        up_acc = tl.zeros([ROWS, OUT], tl.float32)
        for first in tl.range(0, in_features, INNER, num_stages=STAGES):
            columns = first + tl.arange(0, INNER)[None, :]
            values = load_tile(x_rows, columns, here[:, None], in_features, EVEN)
            tile = load_tile(weight_rows, columns, inside, in_features, EVEN)
            acc = tl.dot(values, tl.trans(tile), acc, input_precision="ieee")
            if GATE:
                up_tile = load_tile(up_rows, columns, inside, in_features, EVEN)
                up_acc = tl.dot(values, tl.trans(up_tile), up_acc, input_precision="ieee")
        if GATE:
            acc = activate(acc, 1) * up_acc
        to = out + pairs[:, None] * out_features + features[None, :]
        tl.store(to, acc.to(out.dtype.element_ty), mask=here[:, None] & (features < out_features)[None, :])


@triton.jit
def combine_kernel(parts, weights, out, size, TOP_K: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Add up BLOCK elements of one token's experts, each with its weight, in the order of its choices."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(TOP_K):
        pair = token * TOP_K + choice
        part = tl.load(parts + pair * size + columns, mask=columns < size, other=0.0).to(tl.float32)
        total += part * tl.load(weights + pair)
    tl.store(out + token * size + columns, total.to(out.dtype.element_ty), mask=columns < size)
