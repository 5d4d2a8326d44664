"""Paged attention for TPUs, in Pallas: one kernel for decodes and for ragged prompts.

Queries are laid out in tiles that belong to one row each: one token a tile in a decode, `TILE` tokens otherwise, with
what is missing at a row's end left empty. For each tile the grid walks over the row's pages, some at a time. Which
pages comes from the block table, which is held in scalar memory, and the pipeline fetches the next ones while these are
computed (Ragged Paged Attention, Jiang et al. 2025, has the same shape). Pages past a tile's last key are neither
fetched nor computed.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TILE = 32  # query tokens
STEP_TOKENS = 128  # keys in a step of the grid
LANES = 128
LOWEST = -1e30  # in place of -inf, whose differences are NaN


class Tiles(NamedTuple):
    """Tiles of queries: which row each belongs to, the position of its first token, how many tokens it holds, [tiles]
    int32; and for each place in a tile the token that it holds, [tiles * tile], past the end where it holds none."""

    rows: jax.Array
    first: jax.Array
    counts: jax.Array
    tokens: jax.Array


class Shape(NamedTuple):
    """What the kernel is compiled for."""

    block_size: int
    pages: int  # in a step
    group: int  # query heads of a KV head
    window: int | None
    soft_cap: float | None


def paged_attention(
    query: jax.Array,
    key_cache: jax.Array,
    value_cache: jax.Array,
    query_start: jax.Array,
    seq_lens: jax.Array,
    block_table: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    decode: bool = False,
    tile: int = TILE,
    step_tokens: int = STEP_TOKENS,
    interpret: bool = False,
) -> jax.Array:
    """Return attention [T, Hq, D]; arguments as in `quire.ops.spec`, the batch as its tensors.

    `decode` promises that token i is row i's only one. Scores and sums are float32.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, block_size = key_cache.shape[1:3]
    tiles = _one_token_each(seq_lens) if decode else make_tiles(query_start, seq_lens, num_tokens, tile)
    tile = 1 if decode else tile
    group = num_heads // num_kv_heads
    pages = max(1, min(step_tokens // block_size, block_table.shape[1]))
    shape = Shape(block_size, pages, group, window, soft_cap)
    scaled = (query.astype(jnp.float32) * scale).astype(query.dtype)
    placed = scaled.at[tiles.tokens].get(mode="fill", fill_value=0)
    # [tiles, Hk, tile * group, D]: all queries of a KV head are one matrix.
    placed = placed.reshape(-1, tile, num_kv_heads, group, head_dim).transpose(0, 2, 1, 3, 4)
    placed = placed.reshape(-1, num_kv_heads, tile * group, head_dim)
    out = _call(shape, placed, key_cache, value_cache, tiles, seq_lens, block_table, interpret)
    out = out.reshape(-1, num_kv_heads, tile, group, head_dim).transpose(0, 2, 1, 3, 4)
    out = out.reshape(-1, num_heads, head_dim)
    return jnp.zeros_like(query).at[tiles.tokens].set(out, mode="drop")


def make_tiles(query_start: jax.Array, seq_lens: jax.Array, num_tokens: int, tile: int) -> Tiles:
    """Cut each row's tokens into tiles of `tile`; there are at most ``T / tile + R`` of them."""
    num_rows = seq_lens.shape[0]
    lengths = jnp.where(seq_lens > 0, query_start[1:] - query_start[:-1], 0)
    ends = jnp.cumsum(-(-lengths // tile))
    index = jnp.arange(num_tokens // tile + num_rows, dtype=jnp.int32)
    rows = jnp.minimum(jnp.sum(ends[None] <= index[:, None], axis=1, dtype=jnp.int32), num_rows - 1)
    within = (index - (ends[rows] - -(-lengths[rows] // tile))) * tile  # tokens of the row before the tile
    counts = jnp.where(index < ends[-1], jnp.clip(lengths[rows] - within, 0, tile), 0)
    offsets = jnp.arange(tile, dtype=jnp.int32)
    tokens = (query_start[rows] + within)[:, None] + offsets
    tokens = jnp.where(offsets < counts[:, None], tokens, num_tokens).reshape(-1)
    return Tiles(rows, seq_lens[rows] - lengths[rows] + within, counts, tokens)


def _one_token_each(seq_lens: jax.Array) -> Tiles:
    rows = jnp.arange(seq_lens.shape[0], dtype=jnp.int32)
    return Tiles(rows, seq_lens - 1, (seq_lens > 0).astype(jnp.int32), rows)


def _call(
    shape: Shape,
    placed: jax.Array,
    key_cache: jax.Array,
    value_cache: jax.Array,
    tiles: Tiles,
    seq_lens: jax.Array,
    block_table: jax.Array,
    interpret: bool,
) -> jax.Array:
    num_tiles, num_kv_heads, num_queries, head_dim = placed.shape
    block_size, pages = shape.block_size, shape.pages
    used = -(-seq_lens // block_size)  # entries past these are garbage
    table = jnp.where(jnp.arange(block_table.shape[1]) < used[:, None], block_table, 0)
    ends = tiles.first + tiles.counts  # one past the last key that a tile sees; 0: none
    scalars = (jnp.where(tiles.counts > 0, ends, 0), tiles.first, tiles.rows, table)

    def page(index: int) -> pl.BlockSpec:
        def find(at: Any, step: Any, ends: Any, first: Any, rows: Any, table: Any) -> tuple[Any, ...]:
            last = jax.lax.div(jnp.maximum(ends[at] - 1, 0), jnp.int32(block_size))
            return table[rows[at], jnp.minimum(step * pages + index, last)], 0, 0, 0

        return pl.BlockSpec((1, num_kv_heads, block_size, head_dim), find)

    queries = pl.BlockSpec((1, num_kv_heads, num_queries, head_dim), lambda at, step, *scalars: (at, 0, 0, 0))
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(scalars),
        grid=(num_tiles, -(-table.shape[1] // pages)),
        in_specs=[queries, *(page(index) for index in range(pages)), *(page(index) for index in range(pages))],
        out_specs=queries,
        scratch_shapes=[
            pltpu.VMEM((num_kv_heads, num_queries, LANES), jnp.float32),
            pltpu.VMEM((num_kv_heads, num_queries, LANES), jnp.float32),
            pltpu.VMEM((num_kv_heads, num_queries, head_dim), jnp.float32),
        ],
    )
    return pl.pallas_call(
        partial(_kernel, shape),
        grid_spec=spec,
        out_shape=jax.ShapeDtypeStruct(placed.shape, placed.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(*scalars, placed, *[key_cache] * pages, *[value_cache] * pages)


def _kernel(shape: Shape, ends: Any, first: Any, rows: Any, table: Any, queries: Any, *refs: Any) -> None:
    """Take one step's pages into the softmax of one tile."""
    pages = shape.pages
    keys, values = refs[:pages], refs[pages : 2 * pages]
    out, largest, total, summed = refs[2 * pages :]
    at, step = pl.program_id(0), pl.program_id(1)

    @pl.when(step == 0)
    def begin() -> None:
        largest[...] = jnp.full(largest.shape, LOWEST, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        summed[...] = jnp.zeros(summed.shape, jnp.float32)

    start, end = step * pages * shape.block_size, ends[at]
    oldest = 0 if shape.window is None else first[at] - shape.window + 1

    @pl.when((start < end) & (start + pages * shape.block_size > oldest))
    def attend() -> None:
        for head in range(queries.shape[1]):
            key = jnp.concatenate([page[0, head] for page in keys], axis=0)
            value = jnp.concatenate([page[0, head] for page in values], axis=0)
            _attend_head(shape, queries[0, head], key, value, (start, end, first[at]), head, largest, total, summed)

    @pl.when(step == pl.num_programs(1) - 1)
    def finish() -> None:
        weight = total[:, :, :1]
        out[0] = (summed[...] / jnp.where(weight == 0, 1.0, weight)).astype(out.dtype)


def _attend_head(
    shape: Shape,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    where: tuple[Any, Any, Any],
    head: int,
    largest: Any,
    total: Any,
    summed: Any,
) -> None:
    start, end, first = where
    precision = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
    key, value = key.astype(query.dtype), value.astype(query.dtype)
    product = partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    scores = product(query, key, (((1,), (1,)), ((), ())))
    if shape.soft_cap is not None:
        scores = shape.soft_cap * jnp.tanh(scores / shape.soft_cap)
    token = jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0), jnp.int32(shape.group))
    positions = first + token
    at = start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    visible = (at <= positions) & (at < end)
    if shape.window is not None:
        visible &= at > positions - shape.window
    scores = jnp.where(visible, scores, LOWEST)
    before = largest[head, :, :1]
    best = jnp.maximum(before, scores.max(axis=1, keepdims=True))
    weights = jnp.where(visible, jnp.exp(scores - best), 0.0)
    decay = jnp.exp(before - best)
    real = start + jax.lax.broadcasted_iota(jnp.int32, value.shape, 0) < end  # elsewhere there may be NaN
    found = product(weights.astype(query.dtype), jnp.where(real, value, 0), (((1,), (0,)), ((), ())))
    summed[head] = summed[head] * decay + found
    total[head] = total[head] * decay + weights.sum(axis=1, keepdims=True)
    largest[head] = jnp.broadcast_to(best, largest.shape[1:])
