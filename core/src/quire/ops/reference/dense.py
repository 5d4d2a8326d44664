"""Embedding and matrix products."""

from __future__ import annotations

import torch
from torch.nn import functional

from quire.ops.reference.activations import silu_and_mul
from quire.ops.reference.precision import wide


def embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return rows `ids` [T] of weight [V, H]."""
    return functional.embedding(ids, weight)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x @ weight.T + bias`` [T, N] of x [T, K], weight [N, K], bias [N]."""
    return functional.linear(x, weight, bias)


def moe(
    x: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum [T, H] of each token's SwiGLU experts.

    x [T, H]; experts [T, k] names the experts of each token and weights [T, k] their shares; gate_up [E, 2 I, H];
    down [E, H, I]. The sum is taken in float32 or wider.
    """
    compute = wide(x.dtype)
    out = torch.zeros_like(x, dtype=compute)
    for expert in experts.unique().tolist():
        tokens, choices = (experts == expert).nonzero(as_tuple=True)
        hidden = silu_and_mul(linear(x[tokens], gate_up[expert]))
        share = weights[tokens, choices].to(compute)
        out.index_add_(0, tokens, linear(hidden, down[expert]).to(compute) * share[:, None])
    return out.to(x.dtype)
