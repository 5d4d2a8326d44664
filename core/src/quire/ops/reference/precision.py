"""The dtype that references compute in."""

from __future__ import annotations

import torch


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return x rounded to `dtype`; what is too large for one of 8 bits becomes its largest number."""
    if dtype.itemsize == 1:
        limit = torch.finfo(dtype).max
        x = x.clamp(-limit, limit)
    return x.to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for narrower dtypes, else the dtype itself."""
    return torch.promote_types(dtype, torch.float32)
