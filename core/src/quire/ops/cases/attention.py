"""Inputs of paged_attention: ragged batches over scattered blocks, everything unowned NaN or out of range."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import torch

from quire.backend.contract import BLOCK_FIRST, HEAD_MAJOR, SLOT_MAJOR, KernelRequest, KVLayout
from quire.ops.cases.cache import Caches, CacheShape, empty_caches
from quire.ops.cases.source import Source
from quire.ops.spec import AttentionBatch, OpCase

GARBAGE = 2**31 - 1  # a block id that no cache has
SPARE_BLOCKS = 3


class Row(NamedTuple):
    """Query tokens of a row in this step, and its length with them."""

    query_len: int
    seq_len: int


class AttentionShape(NamedTuple):
    """One case. `padding` tokens at the end belong to no row."""

    rows: tuple[Row, ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    block_size: int = 16
    window: int | None = None
    soft_cap: float | None = None
    sinks: bool = False
    kv_dtype: str | None = None
    layout: KVLayout = HEAD_MAJOR
    padding: int = 0
    heads_first: bool = False  # in the query's memory


DECODE = (Row(1, 1), Row(1, 16), Row(1, 17), Row(1, 37), Row(1, 61))
PREFILL = (Row(1, 1), Row(7, 7), Row(16, 16), Row(37, 37))
CHUNK = (Row(5, 21), Row(16, 48), Row(1, 33))
MIXED = (Row(1, 40), Row(0, 0), Row(9, 9), Row(1, 1), Row(0, 19), Row(6, 30), Row(1, 16))

SHAPES: dict[str, AttentionShape] = {
    "one token": AttentionShape((Row(1, 1),), 1, 1, 16),
    "decode": AttentionShape(DECODE),
    "decode, heads alone": AttentionShape(DECODE, 4, 4, 80),
    "decode, groups of 4": AttentionShape(DECODE, 8, 2, 128),
    "decode, groups of 7": AttentionShape(DECODE, 7, 1, 64),
    "decode, large heads": AttentionShape(DECODE[:4], 2, 1, 256),
    "prefill": AttentionShape(PREFILL),
    "prefill, heads alone": AttentionShape(PREFILL, 3, 3, 16),
    "prefill, groups of 7": AttentionShape(PREFILL, 14, 2, 80),
    "chunk": AttentionShape(CHUNK),
    "chunk, large heads": AttentionShape(CHUNK, 4, 1, 256),
    "mixed": AttentionShape(MIXED, 8, 2, 128),
    "mixed, groups of 7": AttentionShape(MIXED, 7, 1, 64),
    "mixed, padding tokens": AttentionShape((*MIXED, Row(0, 0)), padding=5),
    "padding rows of one token": AttentionShape((*DECODE, Row(1, 0), Row(1, 0))),
    "blocks of 1": AttentionShape(MIXED, block_size=1),
    "blocks of 32": AttentionShape(MIXED, block_size=32),
    "slot-major": AttentionShape(MIXED, layout=SLOT_MAJOR),
    "block-first": AttentionShape(MIXED, layout=BLOCK_FIRST),
    "heads before tokens": AttentionShape(MIXED, heads_first=True),
    "window of 1": AttentionShape(MIXED, window=1),
    "window of 7": AttentionShape(MIXED, window=7),
    "window of 7, decode": AttentionShape(DECODE, window=7),
    "window longer than any row": AttentionShape(MIXED, window=100),
    "soft cap": AttentionShape(MIXED, soft_cap=2.0),
    "sinks": AttentionShape(MIXED, sinks=True),
    "sinks, decode": AttentionShape(DECODE, 8, 2, sinks=True),
    "window, soft cap and sinks": AttentionShape(MIXED, window=7, soft_cap=2.0, sinks=True),
    "bfloat16 cache": AttentionShape(MIXED, kv_dtype="bfloat16"),
    "float32 cache": AttentionShape(MIXED, kv_dtype="float32"),
    "long": AttentionShape((Row(1, 301), Row(67, 300)), 4, 1, 64),
}


def paged_attention_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield every shape above, where it differs from the others in this dtype."""
    source = Source(dtype, seed)
    for label, shape in SHAPES.items():
        if shape.kv_dtype != dtype:
            yield attention_case(label, shape, dtype, source)


def attention_case(label: str, shape: AttentionShape, dtype: str, source: Source) -> OpCase:
    """Make one case: rows own scattered blocks; query is a strided view."""
    owned = [_blocks(row.seq_len, shape.block_size) for row in shape.rows]
    cache_shape = CacheShape(
        sum(owned) + SPARE_BLOCKS,
        shape.num_kv_heads,
        shape.block_size,
        shape.head_dim,
        shape.kv_dtype,
        shape.layout,
    )
    caches = empty_caches(cache_shape, dtype)
    batch = _batch(shape, owned, source.distinct(cache_shape.num_blocks, sum(owned)))
    _fill(caches, batch, source)
    num_tokens = int(batch.query_start[-1]) + shape.padding
    inputs = {
        "query": _query(shape, num_tokens, source),
        **caches._asdict(),
        "batch": batch,
        "scale": shape.head_dim**-0.5,
        "window": shape.window,
        "soft_cap": shape.soft_cap,
        "sinks": source.normal(shape.num_heads) if shape.sinks else None,
    }
    attributes = {
        **cache_shape.attributes(dtype),
        "num_heads": shape.num_heads,
        "window": shape.window,
        "soft_cap": shape.soft_cap,
        "sinks": shape.sinks,
    }
    num_valid = sum(row.query_len for row in shape.rows if row.seq_len)
    return OpCase(label, KernelRequest("paged_attention", dtype, attributes), inputs, num_valid)


def _query(shape: AttentionShape, num_tokens: int, source: Source) -> torch.Tensor:
    """Return [T, Hq, D], strided: part of a fused projection, or heads first as transformers has them."""
    if shape.heads_first:
        return source.normal(shape.num_heads, num_tokens, shape.head_dim, scale=2.0).transpose(0, 1)
    fused = source.normal(num_tokens, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim, scale=2.0)
    return fused[:, : shape.num_heads]


def _batch(shape: AttentionShape, owned: list[int], blocks: torch.Tensor) -> AttentionBatch:
    query_lens = [row.query_len for row in shape.rows]
    seq_lens = [row.seq_len for row in shape.rows]
    block_table = torch.full((len(shape.rows), max(owned) + 2), GARBAGE, dtype=torch.int32)
    for row, ids in enumerate(blocks.split(owned)):
        block_table[row, : len(ids)] = ids
    slots = [_slots(row, block_table[index], shape.block_size) for index, row in enumerate(shape.rows)]
    return AttentionBatch(
        query_start=torch.tensor([0, *accumulate(query_lens)], dtype=torch.int32),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32),
        block_table=block_table,
        slots=torch.cat((*slots, torch.full((shape.padding,), -1))),
        max_query_len=max(query_lens),
        max_seq_len=max(seq_lens),
    )


def _slots(row: Row, blocks: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the slots of the row's query tokens."""
    if not row.seq_len:
        return torch.full((row.query_len,), -1)
    positions = torch.arange(row.seq_len - row.query_len, row.seq_len)
    return blocks[positions // block_size].long() * block_size + positions % block_size


def _fill(caches: Caches, batch: AttentionBatch, source: Source) -> None:
    """Write keys and values to every position that a row owns, and to no other."""
    block_size = caches.key_cache.shape[2]
    for seq_len, blocks in zip(batch.seq_lens.tolist(), batch.block_table, strict=True):
        slots = _slots(Row(seq_len, seq_len), blocks, block_size)
        for cache in caches:
            entries = source.normal(seq_len, cache.shape[1], cache.shape[3], scale=1.5)
            cache[slots // block_size, :, slots % block_size] = entries.to(cache.dtype)


def _blocks(seq_len: int, block_size: int) -> int:
    return -(-seq_len // block_size)
