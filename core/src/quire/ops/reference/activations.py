"""Gated activations: the first half of the last axis goes through the function, the second half scales it."""

from __future__ import annotations

import torch
from torch.nn import functional

from quire.ops.reference.precision import wide


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Return ``silu(x[..., :I]) * x[..., I:]`` [T, I] of x [T, 2 I] (SwiGLU, Shazeer 2020)."""
    gate, up = x.to(wide(x.dtype)).chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(x.dtype)


def gelu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Return ``gelu(x[..., :I]) * x[..., I:]`` [T, I] of x [T, 2 I], with the exact GELU."""
    gate, up = x.to(wide(x.dtype)).chunk(2, dim=-1)
    return (functional.gelu(gate) * up).to(x.dtype)


def gelu_tanh_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Return ``gelu(x[..., :I]) * x[..., I:]`` [T, I] of x [T, 2 I], with the tanh approximation of GELU."""
    gate, up = x.to(wide(x.dtype)).chunk(2, dim=-1)
    return (functional.gelu(gate, approximate="tanh") * up).to(x.dtype)
