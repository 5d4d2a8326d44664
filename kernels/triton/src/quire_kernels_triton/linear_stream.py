"""linear of one token: the weight streams through registers once, and every program reads whole rows of it.

Before it, the sum with the residual and the norm may be taken on the way (each program sees all of x anyhow); after
it, a gated activation. Nothing is normalised before the product: the norm's scale is one number, applied at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.activations import activate
from quire_kernels_triton.launching import start_next, wait_for_inputs


@triton.jit
def load_rows(weight, rows, columns, stride, out_features, IN: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr):
    """Load a tile [OUT, INNER] of weight rows as float32; 0 outside."""
    mask = (rows < out_features)[:, None]
    if IN % INNER != 0:
        mask = mask & (columns < IN)[None, :]
    at = rows.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(weight + at, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)


@triton.jit(do_not_specialize=["out_features"])
def stream_kernel(
    x, residual, norm_weight, weight, bias, out, total_out, out_features, weight_stride, eps,
    ADD: tl.constexpr, NORM: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr,
    IN: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Compute OUT outputs. GATE 0: none; else the activation of that kind, of rows r, times rows out_features + r."""
    rows = tl.program_id(0) * OUT + tl.arange(0, OUT)
    acc = tl.zeros([OUT, INNER], tl.float32)
    up_acc = tl.zeros([OUT, INNER], tl.float32)
    squares = tl.zeros([INNER], tl.float32)
    up_weight = weight + out_features.to(tl.int64) * weight_stride
    # The weight is nobody's output: its first tile is on its way before x is there.
    early = load_rows(weight, rows, tl.arange(0, INNER), weight_stride, out_features, IN, OUT, INNER)
    if GATE:
        early_up = load_rows(up_weight, rows, tl.arange(0, INNER), weight_stride, out_features, IN, OUT, INNER)
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    for first in tl.static_range(0, IN, INNER):
        columns = first + tl.arange(0, INNER)
        inside = columns < IN
        tile = early if first == 0 else load_rows(weight, rows, columns, weight_stride, out_features, IN, OUT, INNER)
        values = tl.load(x + columns, mask=inside, other=0.0)
        if ADD:
            total = values.to(tl.float32) + tl.load(residual + columns, mask=inside, other=0.0).to(tl.float32)
            values = total.to(values.dtype)
            if tl.program_id(0) == 0:
                tl.store(total_out + columns, values, mask=inside)
        wide = values.to(tl.float32)
        if NORM:
            squares += wide * wide
            wide *= tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
        acc += tile * wide[None, :]
        if GATE:
            if first == 0:
                up_tile = early_up
            else:
                up_tile = load_rows(up_weight, rows, columns, weight_stride, out_features, IN, OUT, INNER)
            up_acc += up_tile * wide[None, :]
    scale = 1.0
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=0) / IN + eps)
    result = tl.sum(acc, axis=1) * scale
    if BIAS:
        result += tl.load(bias + rows, mask=rows < out_features, other=0.0).to(tl.float32)
    if GATE:
        up = tl.sum(up_acc, axis=1) * scale
        if BIAS:
            up += tl.load(bias + out_features + rows, mask=rows < out_features, other=0.0).to(tl.float32)
        result = activate(result, GATE) * up
    tl.store(out + rows, result.to(out.dtype.element_ty), mask=rows < out_features)
