"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch

from quire.ops.reference.precision import wide


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x [..., H] over the root of its mean square, times weight [H], in x's dtype.

    The weight's dtype may be wider than x's; the product is rounded once.
    """
    compute = wide(x.dtype)
    x_wide = x.to(compute)
    scale = torch.rsqrt(x_wide.square().mean(-1, keepdim=True) + eps)
    return (x_wide * scale * weight.to(compute)).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norm of ``residual + x`` [T, H] and that sum itself, which is rounded to x's dtype first."""
    total = residual + x
    return rms_norm(total, weight, eps), total
