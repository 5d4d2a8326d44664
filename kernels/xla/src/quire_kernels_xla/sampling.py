"""The draw of the next token, bit by bit as `quire.ops.philox` defines its noise, in 32-bit words and without a sort.

A filter keeps what is at or above a threshold, and a threshold is found by bisection over the bits of a float: 32 looks
at the logits, whatever the vocabulary, ties and all. Accelerators sort badly; they compare and add well.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from quire_kernels_xla.loops import fold

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
BITS = 32
NOTHING = float("-inf")


def sample(
    logits: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
    seeds: jax.Array,
    positions: jax.Array,
    *,
    unroll: bool = False,
) -> jax.Array:
    """Return one token id [R] int32 for each row of logits [R, V]; arguments as in `quire.ops.spec`.

    `seeds` and `positions` are [R, 2]: the low and the high word of 64 bits.
    """
    drawn = temperature > 0
    scaled = logits / jnp.where(drawn, temperature, 1)[:, None]
    lowest = scaled.max(-1, keepdims=True) + jnp.log(min_p)[:, None]
    kept = jnp.where(scaled < lowest, NOTHING, scaled)
    kept = _top_p(_top_k(kept, top_k, unroll), top_p, unroll)
    scores = kept + gumbel_noise(seeds, positions, logits.shape[1])
    return argmax(jnp.where(drawn[:, None], scores, logits))


def argmax(scores: jax.Array) -> jax.Array:
    """Return where each row [R, V] is largest, the first of equals, [R] int32; of a row with NaN some id.

    Two plain reductions: a reduction of pairs is what not every compiler has.
    """
    vocab_size = scores.shape[-1]
    ids = jnp.arange(vocab_size, dtype=jnp.int32)
    at_best = scores == scores.max(-1, keepdims=True)
    return jnp.minimum(jnp.where(at_best, ids, vocab_size).min(-1), vocab_size - 1)


def _top_k(scores: jax.Array, top_k: jax.Array, unroll: bool) -> jax.Array:
    """Keep the `top_k` [R] largest of each row and their equals; 0 keeps all."""
    ranks = _ordered(scores)

    def too_few(threshold: jax.Array) -> jax.Array:
        return (ranks >= threshold[:, None]).sum(-1) < jnp.minimum(top_k, scores.shape[1])

    kth = _bisect(too_few, ranks.shape[0], unroll)[:, None]
    return jnp.where((top_k[:, None] > 0) & (ranks < kth), NOTHING, scores)


def _top_p(scores: jax.Array, top_p: jax.Array, unroll: bool) -> jax.Array:
    """Keep what has less than `top_p` [R] of the mass above it (Holtzman et al. 2020); 1 keeps all."""
    mass, ranks = jax.nn.softmax(scores, axis=-1), _ordered(scores)

    def light(threshold: jax.Array) -> jax.Array:
        return jnp.where(ranks > threshold[:, None], mass, 0).sum(-1) < top_p

    outside = ranks <= _bisect(light, ranks.shape[0], unroll)[:, None]
    below_best = ranks < ranks.max(-1, keepdims=True)
    return jnp.where((top_p < 1)[:, None] & outside & below_best, NOTHING, scores)


def _ordered(scores: jax.Array) -> jax.Array:
    """Return unsigned words in the order of the floats; both zeros are one."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _bisect(passes: Callable[[jax.Array], jax.Array], num_rows: int, unroll: bool) -> jax.Array:
    """Return for each row [R] the largest word that fails a test which all larger words pass; 0 if none fails."""

    def narrow(below: jax.Array, bit: jax.Array) -> jax.Array:
        tried = below | bit
        return jnp.where(passes(tried), below, tried)

    bits = jnp.uint32(1) << jnp.arange(BITS - 1, -1, -1, dtype=jnp.uint32)
    return fold(narrow, jnp.zeros(num_rows, jnp.uint32), bits, unroll)


def gumbel_noise(seeds: jax.Array, positions: jax.Array, vocab_size: int) -> jax.Array:
    """Return the noise [R, V] float32 of every token, for seeds and positions [R, 2] of words."""
    words = random_words(seeds, positions, vocab_size)
    # A word is rounded once: its halves are exact in float32, and so is the product.
    rounded = (words >> 16).astype(jnp.float32) * 65536.0 + (words & 0xFFFF).astype(jnp.float32)
    uniform = jnp.minimum(rounded * 2.0**-32 + 2.0**-33, 1 - 2.0**-24)
    return -jnp.log(-jnp.log1p(-uniform))


def random_words(seeds: jax.Array, positions: jax.Array, vocab_size: int) -> jax.Array:
    """Return Philox4x32-10's word of every token, [R, V] uint32."""
    key0, key1 = (seeds[:, word, None].astype(jnp.uint32) for word in (0, 1))
    groups = jnp.arange(-(-vocab_size // 4), dtype=jnp.uint32)[None]
    counter = [groups, *(positions[:, word, None].astype(jnp.uint32) for word in (0, 1)), jnp.zeros_like(groups)]
    for _ in range(ROUNDS):
        high0, low0 = _multiply(counter[0], MULTIPLIERS[0])
        high1, low1 = _multiply(counter[2], MULTIPLIERS[1])
        counter = [high1 ^ counter[1] ^ key0, low1, high0 ^ counter[3] ^ key1, low0]
        key0, key1 = key0 + jnp.uint32(WEYL[0]), key1 + jnp.uint32(WEYL[1])
    return jnp.stack(jnp.broadcast_arrays(*counter), axis=-1).reshape(seeds.shape[0], -1)[:, :vocab_size]


def _multiply(word: jax.Array, multiplier: int) -> tuple[jax.Array, jax.Array]:
    """Return the high and the low word of a 64-bit product, from products of halves."""
    low_factor, high_factor = jnp.uint32(multiplier & 0xFFFF), jnp.uint32(multiplier >> 16)
    low, high = word & 0xFFFF, word >> 16
    carried = (low * low_factor >> 16) + (high * low_factor & 0xFFFF) + (low * high_factor & 0xFFFF)
    top = high * high_factor + (high * low_factor >> 16) + (low * high_factor >> 16) + (carried >> 16)
    return top, word * jnp.uint32(multiplier)
