"""Writing to the paged KV cache. XLA drops scattered updates whose index is out of range: so padding is not written."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def kv_write(
    key: jax.Array, value: jax.Array, key_cache: jax.Array, value_cache: jax.Array, slots: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the caches [num_blocks, Hk, B, D] with key and value [T, Hk, D] at `slots` [T]; negative: not written."""
    num_blocks, _, block_size, _ = key_cache.shape
    blocks = jnp.where(slots >= 0, slots // block_size, num_blocks)
    return _put(key_cache, blocks, slots % block_size, key), _put(value_cache, blocks, slots % block_size, value)


def block_copy(key_cache: jax.Array, value_cache: jax.Array, pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the caches with block ``pairs[i, 1]`` a copy of ``pairs[i, 0]``; a target past the end is no block."""
    sources, targets = pairs[:, 0], pairs[:, 1]
    return tuple(cache.at[targets].set(cache[sources], mode="drop") for cache in (key_cache, value_cache))


def _put(cache: jax.Array, blocks: jax.Array, offsets: jax.Array, entries: jax.Array) -> jax.Array:
    return cache.at[blocks, :, offsets].set(entries.astype(cache.dtype), mode="drop")
