"""The first pass of `sample`: every row is split over programs, and each token is read once.

A program leaves, for its part of the vocabulary, the largest score and its token; and, for rows with filters, the
largest scaled logit and the mass of each tile, from which the second pass knows which tiles it need not read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.launching import start_next, wait_for_inputs
from quire_kernels_triton.philox import gumbel_noise, words_of_tiles

NEVER = tl.constexpr(float("-inf"))
NO_TOKEN = tl.constexpr(0x7FFFFFFF)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_scaled(logits, first_tokens, live, temperature, vocab_size, TILE: tl.constexpr):
    """Return the logits over temperature [TILES, TILE] of the `live` tiles, and which of them are there."""
    tokens = first_tokens[:, None] + tl.arange(0, TILE)[None, :]
    there = live[:, None] & (tokens < vocab_size)
    scaled = tl.div_rn(tl.load(logits + tokens, mask=there, other=NEVER).to(tl.float32), temperature)
    return scaled, tokens, there


@triton.jit
def keep_better(score, tokens, there, best, best_token):
    """Return the better of each place's score so far and its new one."""
    better = there & ((score > best) | (best_token == NO_TOKEN))
    return tl.where(better, score, best), tl.where(better, tokens, best_token)


@triton.jit
def may_win(words, scaled, there, reached):
    """Return whether any token of the tiles may reach the score `reached`. `scaled` need not be exact.

    The noise -log(E) of uniform u is at most -log(u), so a token wins only if ``u <= exp(scaled - reached)``. That
    costs a fraction of two logarithms, and after the first tiles few tokens pass. u is taken from the word's upper
    bits, below what it is; the bound is widened by more than what was rounded. NaN passes.
    """
    below_u = ((words >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    bound = tl.exp2((scaled - reached) * LOG2E + (1e-6 * tl.abs(scaled) + 1e-4))
    possible = there & ~(below_u > bound)
    return tl.max(tl.max(possible.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
def scan_kernel(
    logits, temperature, top_k, top_p, min_p, seeds, seats, positions,
    best_scores, best_tokens, tile_maxima, tile_masses,
    vocab_size, num_tiles, logits_stride,
    SEATED: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Score one part of one row. SEATED: the settings are tables, and the row's are at its entry of `seats`."""
    wait_for_inputs(DEPENDENT)
    row, part, num_parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    seat = tl.load(seats + row).to(tl.int64) if SEATED else row
    heat = tl.load(temperature + seat)
    drawn = heat > 0
    divisor = tl.where(drawn, heat, 1.0)
    seed, position = tl.load(seeds + seat), tl.load(positions + row).to(tl.int64)
    narrowed = drawn & ((tl.load(top_k + seat) > 0) | (tl.load(min_p + seat) > 0))
    filtered = narrowed | (drawn & (tl.load(top_p + seat) < 1.0))
    # Where top_p alone filters, the first draw is often the answer; other filters need to be known before a draw.
    scored = ~narrowed

    share = tl.cdiv(tl.cdiv(num_tiles, num_parts), TILES) * TILES
    first, last = part * share, tl.minimum((part + 1) * share, num_tiles)
    best = tl.full([TILES, TILE], NEVER, tl.float32)
    best_token = tl.full([TILES, TILE], NO_TOKEN, tl.int32)
    reached = tl.full([], NEVER, tl.float32)
    for at in range(first, last, TILES):
        tiles = at + tl.arange(0, TILES)
        live = tiles < last
        tokens = (tiles * TILE)[:, None] + tl.arange(0, TILE)[None, :]
        there = live[:, None] & (tokens < vocab_size)
        values = tl.load(logits + row * logits_stride + tokens, mask=there, other=NEVER).to(tl.float32)
        if filtered:
            scaled = tl.div_rn(values, divisor)
            maxima = tl.max(scaled, axis=1)
            anchor = tl.where(maxima == NEVER, 0.0, maxima)
            tl.store(tile_maxima + row * num_tiles + tiles, maxima, mask=live)
            tl.store(tile_masses + row * num_tiles + tiles, tl.sum(tl.exp(scaled - anchor[:, None]), 1), mask=live)
        if scored & ~drawn:
            best, best_token = keep_better(values, tokens, there, best, best_token)
        if scored & drawn:
            words = words_of_tiles(tiles * TILE, seed, position, TILES, TILE)
            if may_win(words, values * (1.0 / divisor), there, reached):
                score = tl.div_rn(values, divisor) + gumbel_noise(words)
                best, best_token = keep_better(score, tokens, there, best, best_token)
                reached = tl.max(tl.max(best, axis=1), axis=0)
    start_next(DEPENDENT)
    largest = tl.max(tl.max(best, axis=1), axis=0)
    token = tl.min(tl.min(tl.where(best == largest, best_token, NO_TOKEN), axis=1), axis=0)
    tl.store(best_scores + row * num_parts + part, largest)
    tl.store(best_tokens + row * num_parts + part, token)
