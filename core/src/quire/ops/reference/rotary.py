"""Rotary position embedding (RoFormer, Su et al. 2021), in NeoX order: halves are rotated against each other."""

from __future__ import annotations

import torch

from quire.ops.reference.precision import wide


def rope(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate query [T, Hq, D] and key [T, Hk, D] by ``cos_sin[positions]`` [T, rotary_dim]; later dims pass through."""
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    compute, half = wide(x.dtype), cos.shape[-1]
    cos, sin = cos.to(compute), sin.to(compute)
    first, second = x[..., :half].to(compute), x[..., half : 2 * half].to(compute)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((rotated.to(x.dtype), x[..., 2 * half :]), dim=-1)
