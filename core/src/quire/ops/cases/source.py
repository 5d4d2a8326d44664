"""Seeded tensors."""

from __future__ import annotations

import torch


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of this name, e.g. ``"bfloat16"``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype), f"{name} is no dtype"
    return dtype


class Source:
    """Random tensors on the CPU; the same seed gives the same tensors in the same order of calls."""

    def __init__(self, dtype: str, seed: int) -> None:
        self.dtype = torch_dtype(dtype)
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return normal numbers, drawn in float32 and rounded."""
        return (torch.randn(shape, generator=self._generator) * scale).to(dtype or self.dtype)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return float32 numbers in [0, 1)."""
        return torch.rand(shape, generator=self._generator)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Return int64 numbers in 0 … high - 1."""
        return torch.randint(high, shape, generator=self._generator)

    def distinct(self, high: int, count: int) -> torch.Tensor:
        """Return `count` different int64 numbers in 0 … high - 1, in random order."""
        return torch.randperm(high, generator=self._generator)[:count]
