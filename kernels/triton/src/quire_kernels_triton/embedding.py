"""embedding: rows of a table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire_kernels_triton.launching import Launch, in_order, start_next, wait_for_inputs

BLOCK = 1024


@triton.jit
def embedding_kernel(ids, weight, out, size, stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Copy BLOCK elements of one token's row."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(ids + token).to(tl.int64)
    values = tl.load(weight + row * stride + columns, mask=columns < size)
    tl.store(out + token * size + columns, values, mask=columns < size)


def embedding(ids: torch.Tensor, weight: torch.Tensor, launch: Launch = in_order) -> torch.Tensor:
    """Return rows `ids` [T] of weight [V, H]."""
    out = torch.empty((len(ids), weight.shape[1]), dtype=weight.dtype, device=weight.device)
    if len(ids):
        grid = (len(ids), triton.cdiv(weight.shape[1], BLOCK))
        options = {"BLOCK": BLOCK, "num_warps": 4, **launch(len(ids))}
        embedding_kernel[grid](ids, weight, out, weight.shape[1], weight.stride(0), **options)
    return out
