"""rms_norm and add_rms_norm: one pass over each row, in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire_kernels_triton.launching import Launch, in_order, start_next, wait_for_inputs


@triton.jit(do_not_specialize=["num_rows"])
def rms_norm_kernel(
    x, residual, weight, out, total_out, num_rows, num_heads, size, eps,
    x_stride_token, x_stride_head, residual_stride,
    ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Normalise ROWS rows a program; row r is head r % num_heads of token r // num_heads."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    gain = tl.load(weight + columns, mask=columns < size, other=0.0).to(tl.float32)
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    mask = (rows < num_rows)[:, None] & (columns < size)[None, :]
    starts = (rows // num_heads).to(tl.int64) * x_stride_token + (rows % num_heads).to(tl.int64) * x_stride_head
    values = tl.load(x + starts[:, None] + columns[None, :], mask=mask, other=0.0)
    wide = values.to(tl.float32)
    if ADD:
        at = rows.to(tl.int64)[:, None] * residual_stride + columns[None, :]
        wide += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        total = wide.to(values.dtype)
        wide = total.to(tl.float32)
        tl.store(total_out + rows.to(tl.int64)[:, None] * size + columns[None, :], total, mask=mask)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / size + eps)
    normed = wide * scale[:, None] * gain[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * size + columns[None, :], normed.to(values.dtype), mask=mask)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, launch: Launch = in_order) -> torch.Tensor:
    """Return x [T, H] or [T, heads, H] normed over its last axis."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    heads = x.shape[1] if x.dim() == 3 else 1
    _launch(x, x, weight, out, out, eps, heads, launch, add=False)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, launch: Launch = in_order
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norm of ``residual + x`` [T, H], and that sum."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty_like(out)
    _launch(x, residual, weight, out, total, eps, 1, launch, add=True)
    return out, total


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    total: torch.Tensor,
    eps: float,
    heads: int,
    launch: Launch,
    add: bool,
) -> None:
    size = x.shape[-1]
    num_rows = x.numel() // size
    if not num_rows:
        return
    block = triton.next_power_of_2(size)
    rows = max(1, 512 // block)
    rms_norm_kernel[(triton.cdiv(num_rows, rows),)](
        x, residual, weight, out, total, num_rows, heads, size, eps,
        x.stride(0), x.stride(1) if x.dim() == 3 else 0, residual.stride(0),
        ADD=add, ROWS=rows, BLOCK=block, num_warps=min(16, max(1, rows * block // 512)), **launch(len(x)),
    )  # fmt: skip
