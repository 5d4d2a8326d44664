"""The sampler's noise on the device, bit for bit as `quire.ops.philox` defines it."""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(1.0 - 2.0**-24)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return the four words of Philox4x32-10 for uint32 counters and keys."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def words_of_tiles(first_tokens, seed, position, TILES: tl.constexpr, TILE: tl.constexpr):
    """Return the word of each token [TILES, TILE] uint32; tile i holds the tokens from first_tokens[i], a multiple
    of 4, on."""
    groups = (first_tokens // 4)[:, None] + tl.arange(0, TILE // 4)[None, :]
    c0 = groups.to(tl.uint32)
    zero = tl.zeros([TILES, TILE // 4], tl.uint32)
    c1 = zero + (position & 0xFFFFFFFF).to(tl.uint32)
    c2 = zero + ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    k0 = zero + (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = zero + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = philox4x32(c0, c1, c2, zero, k0, k1)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def gumbel_noise(words):
    """Return -log(E) of uint32 words, float32; log1p in the form that needs none."""
    u = words.to(tl.float32) * 2.0**-32 + 2.0**-33
    u = tl.minimum(u, LARGEST)
    w = 1.0 - u
    is_one = w == 1.0
    exponential = tl.where(is_one, u, -tl.log(w) * tl.div_rn(u, tl.where(is_one, 1.0, 1.0 - w)))
    return -tl.log(exponential)
