"""Small looks at bytes."""

from __future__ import annotations

import torch


def spans_overlap(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Say whether two contiguous tensors have addresses in common."""
    starts, ends = zip(*((item.data_ptr(), item.data_ptr() + item.nbytes) for item in (left, right)), strict=True)
    return bool(left.device == right.device and max(starts) < min(ends))


def pattern(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Return numbers that no other seed gives, in the shape of `like`."""
    numbers = torch.arange(like.numel(), dtype=torch.float32) + 1000 * seed
    return numbers.reshape(like.shape).to(like.device, like.dtype)


def region_of(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    """Return which blocks (first axis) changed; NaN equals NaN."""
    same = (before == after) | (before.isnan() & after.isnan())
    return set((~same.flatten(1).all(1)).nonzero().flatten().tolist())
