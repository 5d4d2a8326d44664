"""Causal attention over paged keys and values, with shapes that depend on no data: gathers, masks and one scan.

Every query token carries its own running softmax (Milakov and Gimelshein 2018) over its row's pages, a chunk of pages
at a time. That reads a prompt's pages once for each of its tokens: right anywhere that XLA compiles, and fast only for
decodes; `pallas` has kernels that share the pages of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from quire_kernels_xla.loops import fold

CHUNK_TOKENS = 128  # keys scored at once
NOTHING = float("-inf")


class Tokens(NamedTuple):
    """Where each query token stands, [T] int32: its row, its position, and the keys that it may see; 0: padding."""

    rows: jax.Array
    positions: jax.Array
    num_visible: jax.Array


class Softmax(NamedTuple):
    """A softmax under way: the largest score and the sum of weights [T, Hk, G], the weighted values [T, Hk, G, D]."""

    largest: jax.Array
    total: jax.Array
    values: jax.Array


def place_tokens(query_start: jax.Array, seq_lens: jax.Array, num_tokens: int) -> Tokens:
    """Find each token's row by counting the rows that end before it: no sort and no search, so any compiler has it."""
    at = jnp.arange(num_tokens, dtype=jnp.int32)
    rows = jnp.sum(query_start[None, 1:] <= at[:, None], axis=1, dtype=jnp.int32)
    real = rows < seq_lens.shape[0]
    rows = jnp.minimum(rows, seq_lens.shape[0] - 1)
    positions = seq_lens[rows] - query_start[rows + 1] + at
    return Tokens(rows, positions, jnp.where(real & (seq_lens[rows] > 0), positions + 1, 0))


def paged_attention(
    query: jax.Array,
    key_cache: jax.Array,
    value_cache: jax.Array,
    query_start: jax.Array,
    seq_lens: jax.Array,
    block_table: jax.Array,
    sinks: jax.Array | None,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    unroll: bool = False,
) -> jax.Array:
    """Return attention [T, Hq, D]; arguments as in `quire.ops.spec`, the batch as its tensors.

    Scores and sums are float32. `unroll` leaves no loop in the program, for compilers that have none.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, block_size = key_cache.shape[1:3]
    tokens = place_tokens(query_start, seq_lens, num_tokens)
    grouped = query.astype(jnp.float32).reshape(num_tokens, num_kv_heads, -1, head_dim) * scale
    pages = _chunks(block_table[tokens.rows], max(1, CHUNK_TOKENS // block_size))

    def attend(state: Softmax, chunk: tuple[jax.Array, jax.Array]) -> Softmax:
        blocks, first = chunk
        at = first + jnp.arange(blocks.shape[1] * block_size, dtype=jnp.int32)
        visible = _visible(tokens, at, window)
        keys, values = (_gather(cache, blocks, visible) for cache in (key_cache, value_cache))
        scores = jnp.einsum("thgd,thsd->thgs", grouped, keys, precision="highest")
        if soft_cap is not None:
            scores = soft_cap * jnp.tanh(scores / soft_cap)
        return _add(state, jnp.where(visible[:, None, None], scores, NOTHING), values)

    starts = jnp.arange(pages.shape[0], dtype=jnp.int32) * (pages.shape[2] * block_size)
    state = fold(attend, _begin(grouped, sinks), (pages, starts), unroll)
    out = state.values / jnp.where(state.total == 0, 1, state.total)[..., None]
    return out.reshape(num_tokens, num_heads, head_dim).astype(query.dtype)


def _chunks(block_table: jax.Array, width: int) -> jax.Array:
    """Cut the tokens' block tables [T, B] into [chunks, T, width]; what is added is masked as any garbage is."""
    num_tokens, num_blocks = block_table.shape
    width = min(width, num_blocks)
    padded = jnp.pad(block_table, ((0, 0), (0, -num_blocks % width)))
    return padded.reshape(num_tokens, -1, width).transpose(1, 0, 2)


def _visible(tokens: Tokens, at: jax.Array, window: int | None) -> jax.Array:
    """Return which of the keys at positions `at` [S] each token sees, [T, S]."""
    visible = at < tokens.num_visible[:, None]
    return visible if window is None else visible & (at > tokens.positions[:, None] - window)


def _gather(cache: jax.Array, blocks: jax.Array, visible: jax.Array) -> jax.Array:
    """Return each token's own pages [T, Hk, S, D] float32, zero where nothing is seen: there may be NaN there."""
    used = visible.reshape(*blocks.shape, -1).any(-1)
    pages = cache[jnp.where(used, blocks, 0)].astype(jnp.float32)  # [T, P, Hk, B, D]
    joined = pages.transpose(0, 2, 1, 3, 4).reshape(blocks.shape[0], cache.shape[1], -1, cache.shape[3])
    return jnp.where(visible[:, None, :, None], joined, 0)


def _begin(grouped: jax.Array, sinks: jax.Array | None) -> Softmax:
    """Return a softmax of nothing, or of the sinks [Hq], which have weight and no value."""
    shape = grouped.shape[:3]
    values = jnp.zeros(grouped.shape, jnp.float32)
    if sinks is None:
        return Softmax(jnp.full(shape, NOTHING), jnp.zeros(shape, jnp.float32), values)
    largest = jnp.broadcast_to(sinks.astype(jnp.float32).reshape(1, *shape[1:]), shape)
    return Softmax(largest, jnp.ones(shape, jnp.float32), values)


def _add(state: Softmax, scores: jax.Array, values: jax.Array) -> Softmax:
    """Take scores [T, Hk, G, S] of values [T, Hk, S, D] into a softmax."""
    largest = jnp.maximum(state.largest, scores.max(-1))
    shift = jnp.where(largest == NOTHING, 0.0, largest)
    weights, decay = jnp.exp(scores - shift[..., None]), jnp.exp(state.largest - shift)
    summed = jnp.einsum("thgs,thsd->thgd", weights, values, precision="highest")
    return Softmax(largest, state.total * decay + weights.sum(-1), state.values * decay[..., None] + summed)
