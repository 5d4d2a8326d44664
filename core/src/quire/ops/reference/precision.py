"""The dtype that references compute in."""

from __future__ import annotations

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for narrower dtypes, else the dtype itself."""
    return torch.promote_types(dtype, torch.float32)
