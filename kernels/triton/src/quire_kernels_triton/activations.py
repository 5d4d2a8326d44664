"""Gated activations: the function of the first half of a row, times its second half."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from quire_kernels_triton.launching import Launch, in_order, start_next, wait_for_inputs

KINDS = {"silu_and_mul": 1, "gelu_and_mul": 2, "gelu_tanh_and_mul": 3}
BLOCK = 1024


@triton.jit
def activate(gate, KIND: tl.constexpr):
    """Return silu (1), exact gelu (2) or tanh gelu (3) of a float32 tile."""
    if KIND == 1:
        out = gate / (1.0 + tl.exp(-gate))
    elif KIND == 2:
        out = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        out = gate / (1.0 + tl.exp(-2.0 * inner))  # 0.5 (1 + tanh x) = sigmoid 2x
    return out


@triton.jit
def gated_kernel(x, out, size, stride, KIND: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Compute BLOCK outputs of one token."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    gate = tl.load(x + token * stride + columns, mask=mask, other=0.0)
    up = tl.load(x + token * stride + size + columns, mask=mask, other=0.0)
    result = activate(gate.to(tl.float32), KIND) * up.to(tl.float32)
    tl.store(out + token * size + columns, result.to(gate.dtype), mask=mask)


def gated(op: str, launch: Launch = in_order) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the kernel of an op such as "silu_and_mul": x [T, 2 I] to [T, I]."""

    def run(x: torch.Tensor) -> torch.Tensor:
        num_tokens, size = x.shape[0], x.shape[1] // 2
        out = torch.empty((num_tokens, size), dtype=x.dtype, device=x.device)
        if num_tokens:
            grid = (num_tokens, triton.cdiv(size, BLOCK))
            options = {"KIND": KINDS[op], "BLOCK": BLOCK, "num_warps": 4, **launch(num_tokens)}
            gated_kernel[grid](x, out, size, x.stride(0), **options)
        return out

    run.__name__ = op
    return run
