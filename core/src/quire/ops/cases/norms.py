"""Inputs of rms_norm, add_rms_norm and rope."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from quire.backend.contract import KernelRequest
from quire.ops.cases.source import Source
from quire.ops.spec import OpCase

EPS = 1e-5


def rms_norm_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield rows of 1 to 1000 elements, heads of a strided view, float32 weights, rows near zero."""
    source = Source(dtype, seed)
    for shape, weight_dtype in (
        ((1, 1), source.dtype),
        ((1, 128), source.dtype),
        ((7, 80), source.dtype),
        ((33, 1000), source.dtype),
        ((5, 97), torch.float32),
        ((7, 3, 64), source.dtype),
    ):
        size = shape[-1]
        inputs = {"x": source.normal(*shape), "weight": 1 + source.normal(size, dtype=weight_dtype), "eps": EPS}
        label = f"{'x'.join(map(str, shape))} weight {str(weight_dtype).removeprefix('torch.')}"
        yield OpCase(label, KernelRequest("rms_norm", dtype, {"hidden_size": size}), inputs)
    heads = source.normal(5, 6, 80)[:, :4]
    request = KernelRequest("rms_norm", dtype, {"hidden_size": 80})
    yield OpCase("strided heads", request, {"x": heads, "weight": source.normal(80), "eps": EPS})
    small = source.normal(3, 64, scale=1e-3)
    request = KernelRequest("rms_norm", dtype, {"hidden_size": 64})
    yield OpCase("eps matters", request, {"x": small, "weight": source.normal(64), "eps": EPS})


def add_rms_norm_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield rows of 1 to 1000 elements; the residual is ten times the size of x, as deep in a model."""
    source = Source(dtype, seed)
    for num_tokens, size in ((1, 1), (1, 128), (7, 80), (33, 1000), (5, 97)):
        inputs = {
            "x": source.normal(num_tokens, size),
            "residual": source.normal(num_tokens, size, scale=10.0),
            "weight": 1 + source.normal(size),
            "eps": EPS,
        }
        request = KernelRequest("add_rms_norm", dtype, {"hidden_size": size})
        yield OpCase(f"{num_tokens}x{size}", request, inputs)


def rotary_table(num_positions: int, rotary_dim: int) -> torch.Tensor:
    """Return cosines and sines [P, rotary_dim] in float32, base 10,000."""
    rates = 10_000.0 ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def rope_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield head sizes 16 to 256, full and partial rotation, unordered positions, views of a fused projection."""
    source = Source(dtype, seed)
    for num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim in (
        (1, 1, 1, 16, 16),
        (7, 4, 4, 64, 64),
        (13, 8, 2, 80, 80),
        (5, 7, 1, 128, 128),
        (3, 2, 1, 256, 256),
        (9, 4, 2, 64, 32),
        (4, 3, 1, 80, 20),
    ):
        fused = source.normal(num_tokens, num_heads + 2 * num_kv_heads, head_dim)
        query, key, _ = fused.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
        positions = torch.cat((torch.tensor([0, 210]), source.integers(211, num_tokens)))[:num_tokens]
        attributes = {
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "rotary_dim": rotary_dim,
        }
        inputs = {"query": query, "key": key, "positions": positions, "cos_sin": rotary_table(211, rotary_dim)}
        label = f"T={num_tokens} Hq={num_heads} Hk={num_kv_heads} D={head_dim} rotary={rotary_dim}"
        yield OpCase(label, KernelRequest("rope", dtype, attributes), inputs)
