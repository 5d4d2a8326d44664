"""Inputs of between_attentions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quire.backend.contract import BLOCK_FIRST, KernelRequest
from quire.ops.cases.cache import CacheShape, empty_caches
from quire.ops.cases.norms import EPS, rotary_table
from quire.ops.cases.source import Source
from quire.ops.spec import OpCase


def between_attentions_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield one token, a few and some hundred, with norms of the heads or a bias, whole tiles and not, padding."""
    for num_tokens, num_heads, hidden_size, intermediate_size, qk_norm, shape in (
        (1, 4, 64, 80, True, CacheShape(5, 2, 16, 32)),
        (3, 2, 128, 192, True, CacheShape(4, 1, 16, 128)),
        (19, 4, 128, 96, False, CacheShape(5, 2, 16, 64, layout=BLOCK_FIRST)),
        (70, 2, 64, 144, True, CacheShape(9, 2, 16, 128)),
        (130, 2, 128, 64, False, CacheShape(9, 1, 16, 64)),
        (200, 3, 192, 96, True, CacheShape(7, 1, 32, 128)),
        (5, 6, 72, 56, False, CacheShape(3, 2, 16, 48)),
    ):
        source = Source(dtype, seed)
        slots = source.distinct(shape.num_blocks * shape.block_size, num_tokens)
        slots[1:2] = -1
        inputs = {
            **_stream(source, num_tokens, num_heads * shape.head_dim, hidden_size, intermediate_size),
            **_heads(source, num_heads, hidden_size, qk_norm, shape),
            "eps": EPS,
            "positions": source.integers(211, num_tokens),
            "cos_sin": rotary_table(211, shape.head_dim),
            **empty_caches(shape, dtype)._asdict(),
            "slots": slots,
        }
        attributes = {
            **shape.attributes(dtype),
            "num_heads": num_heads,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "activation": "silu_and_mul",
            "bias": not qk_norm,
            "rotary_dim": shape.head_dim,
            "qk_norm": qk_norm,
        }
        named = f"T={num_tokens} H={hidden_size} I={intermediate_size} Hq={num_heads} Hk={shape.num_kv_heads}"
        label = f"{named} D={shape.head_dim}{' norms' if qk_norm else ' bias'}"
        yield OpCase(label, KernelRequest("between_attentions", dtype, attributes), inputs)


def _stream(source: Source, num_tokens: int, width: int, hidden_size: int, intermediate_size: int) -> dict[str, Any]:
    return {
        "attended": source.normal(num_tokens, width),
        "residual": source.normal(num_tokens, hidden_size, scale=3.0),
        "output_weight": source.normal(hidden_size, width, scale=width**-0.5),
        "mlp_norm": 1 + source.normal(hidden_size),
        "gate_up_weight": source.normal(2 * intermediate_size, hidden_size, scale=hidden_size**-0.5),
        "down_weight": source.normal(hidden_size, intermediate_size, scale=intermediate_size**-0.5),
        "activation": "silu_and_mul",
    }


def _heads(source: Source, num_heads: int, hidden_size: int, qk_norm: bool, shape: CacheShape) -> dict[str, Any]:
    out_features = (num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    return {
        "attention_norm": 1 + source.normal(hidden_size),
        "qkv_weight": source.normal(out_features, hidden_size, scale=hidden_size**-0.5),
        "qkv_bias": None if qk_norm else source.normal(out_features),
        "q_norm": 1 + source.normal(shape.head_dim) if qk_norm else None,
        "k_norm": 1 + source.normal(shape.head_dim) if qk_norm else None,
    }
