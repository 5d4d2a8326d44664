"""Inputs over a KV cache of float8_e4m3fn, for those who claim one; the records' own cases all must bear."""

from __future__ import annotations

from collections.abc import Iterator

from quire.backend.contract import KernelRequest
from quire.ops.cases.attention import DECODE, MIXED, AttentionShape, attention_case
from quire.ops.cases.cache import CacheShape, empty_caches
from quire.ops.cases.norms import EPS, rotary_table
from quire.ops.cases.source import Source
from quire.ops.spec import OpCase

FLOAT8 = "float8_e4m3fn"
SHAPES = {
    "float8 cache": AttentionShape(MIXED, kv_dtype=FLOAT8),
    "float8 cache, decode, groups of 4": AttentionShape(DECODE, 8, 2, 128, kv_dtype=FLOAT8),
    "float8 cache, window of 7": AttentionShape(MIXED, 4, 2, 80, window=7, kv_dtype=FLOAT8),
}
CACHE = CacheShape(5, 2, 16, 64, kv_dtype=FLOAT8)


def float8_cases(op: str, dtype: str, seed: int = 0) -> Iterator[OpCase]:
    """Yield an op's cases over such a cache; none for an op that has no cache."""
    source = Source(dtype, seed)
    if op == "paged_attention":
        yield from (attention_case(label, shape, dtype, source) for label, shape in SHAPES.items())
    if op == "kv_write":
        yield _write_case(dtype, source)
    if op == "qkv_rope_write":
        yield _rope_write_case(dtype, source)


def _write_case(dtype: str, source: Source) -> OpCase:
    """Keys of up to about 700 and values of up to about 1: of both, some cannot be told from the largest or from 0."""
    inputs = {
        "key": source.normal(13, 2, 64, scale=200.0),
        "value": source.normal(13, 2, 64, scale=0.25),
        **empty_caches(CACHE, dtype)._asdict(),
        "slots": source.distinct(80, 13),
    }
    return OpCase("float8 cache", KernelRequest("kv_write", dtype, CACHE.attributes(dtype)), inputs)


def _rope_write_case(dtype: str, source: Source) -> OpCase:
    inputs = {
        "qkv": source.normal(9, (4 + 2 * 2) * 64),
        "positions": source.integers(211, 9),
        "cos_sin": rotary_table(211, 64),
        "q_norm": 1 + source.normal(64),
        "k_norm": 1 + source.normal(64),
        "eps": EPS,
        **empty_caches(CACHE, dtype)._asdict(),
        "slots": source.distinct(80, 9),
    }
    attributes = {**CACHE.attributes(dtype), "num_heads": 4, "rotary_dim": 64, "qk_norm": True}
    return OpCase("float8 cache", KernelRequest("qkv_rope_write", dtype, attributes), inputs)
