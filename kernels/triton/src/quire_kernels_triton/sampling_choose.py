"""The second pass of `sample`: one program a row, which joins the parts, or filters.

Nothing is sorted. The largest score among all tokens is the draw if it passes the filters; if not, then neither does
any token with a lower logit, and the next candidate is the largest score among those above (rejection with a rising
pivot, after FlashInfer's sampler). A filter is judged from the count and the mass of the tokens above a candidate,
which lie in the few tiles whose maximum is above it. Where top_k is set its threshold is found first, by bisection over
the bits of the logits, in the tiles that can hold the k largest: those whose maximum is among the k largest maxima.

Logits are compared as *keys*: int32 in the order of the floats, so that "at least x" is "above key(x) - 1".
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.launching import start_next, wait_for_inputs
from quire_kernels_triton.philox import gumbel_noise, words_of_tiles
from quire_kernels_triton.sampling_scan import NEVER, NO_TOKEN, load_scaled

LOWEST = tl.constexpr(-0x7FFFFFFF - 1)
BELOW_ALL = tl.constexpr(-0x7F800002)  # below the key of minus infinity


@triton.jit
def key_of(x):
    """Return int32 keys in the order of float32 x; both zeros have one key."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def list_tiles(tile_maxima, tile_list, num_tiles, low, TILES_PADDED: tl.constexpr):
    """Write the tiles that hold a token above key `low` to tile_list; return how many they are."""
    tiles = tl.arange(0, TILES_PADDED)
    maxima = tl.load(tile_maxima + tiles, mask=tiles < num_tiles, other=NEVER)
    live = (tiles < num_tiles) & (key_of(maxima) > low)
    place = tl.cumsum(live.to(tl.int32), axis=0) - 1
    tl.debug_barrier()  # the list before this one may still be read
    tl.store(tile_list + place, tiles, mask=live)
    tl.debug_barrier()
    return tl.sum(live.to(tl.int32), axis=0)


@triton.jit
def survey(
    logits, tile_list, num_listed, low, temperature, maximum, seed, position, vocab_size,
    DRAW: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return of the tokens above key `low`, all of which are in listed tiles: count, mass relative to `maximum`, and,
    if DRAW, the one of the largest score and its key."""
    count = tl.zeros([TILES, TILE], tl.int32)
    mass = tl.zeros([TILES, TILE], tl.float32)
    best = tl.full([TILES, TILE], NEVER, tl.float32)
    best_token = tl.full([TILES, TILE], NO_TOKEN, tl.int32)
    best_key = tl.full([TILES, TILE], LOWEST, tl.int32)
    for at in range(0, num_listed, TILES):
        places = at + tl.arange(0, TILES)
        live = places < num_listed
        first_tokens = tl.load(tile_list + places, mask=live, other=0) * TILE
        scaled, tokens, there = load_scaled(logits, first_tokens, live, temperature, vocab_size, TILE)
        keys = key_of(scaled)
        above = there & (keys > low)
        count += above.to(tl.int32)
        mass += tl.where(above, tl.exp(scaled - maximum), 0.0)
        if DRAW:
            score = scaled + gumbel_noise(words_of_tiles(first_tokens, seed, position, TILES, TILE))
            better = above & ((score > best) | (best_token == NO_TOKEN))
            best = tl.where(better, score, best)
            best_token = tl.where(better, tokens, best_token)
            best_key = tl.where(better, keys, best_key)
    total, total_mass = tl.sum(tl.sum(count, axis=1), axis=0), tl.sum(tl.sum(mass, axis=1), axis=0)
    token, token_key = NO_TOKEN, LOWEST
    if DRAW:
        largest = tl.max(tl.max(best, axis=1), axis=0)
        winners = (best == largest) & (best_token != NO_TOKEN)
        token = tl.min(tl.min(tl.where(winners, best_token, NO_TOKEN), axis=1), axis=0)
        token_key = tl.max(tl.max(tl.where(winners & (best_token == token), best_key, LOWEST), axis=1), axis=0)
    return total, total_mass, token, token_key


@triton.jit
def middle_of(low, high):
    """Return the middle of two int32, rounded down, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def bound_of_k(tile_maxima, num_tiles, low, high, k, TILES_PADDED: tl.constexpr):
    """Return a key with at least k tokens above it, at least `low`, judged by the tiles' maxima alone: the largest
    such key. Where there are fewer than k tiles above `low`, that is `low`."""
    tiles = tl.arange(0, TILES_PADDED)
    keys = key_of(tl.load(tile_maxima + tiles, mask=tiles < num_tiles, other=NEVER))
    live = tiles < num_tiles
    while (high > low) & (middle_of(low, high) > low):
        middle = middle_of(low, high)
        if tl.sum((live & (keys > middle)).to(tl.int32), axis=0) >= k:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def threshold_of_k(
    logits, tile_list, num_listed, low, high, k, temperature, maximum, vocab_size,
    TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return the key above which the k largest tokens (and those equal to the last) lie: `low` if it has no more."""
    count, mass, token, key = survey(
        logits, tile_list, num_listed, low, temperature, maximum, 0, 0, vocab_size, False, TILES, TILE
    )
    while (count > k) & (middle_of(low, high) > low):
        middle = middle_of(low, high)
        above, mass, token, key = survey(
            logits, tile_list, num_listed, middle, temperature, maximum, 0, 0, vocab_size, False, TILES, TILE
        )
        if above >= k:
            low = middle
            count = above
        else:
            high = middle
    return low


@triton.jit
def draw_filtered(
    logits, tile_maxima, tile_masses, tile_list, candidate, k, p, floor_p, temperature, seed, position,
    vocab_size, num_tiles,
    TILES: tl.constexpr, TILE: tl.constexpr, TILES_PADDED: tl.constexpr,
):  # fmt: skip
    """Return the drawn token of a row with filters. `candidate` is the largest score of all tokens, if known."""
    tiles = tl.arange(0, TILES_PADDED)
    maxima = tl.load(tile_maxima + tiles, mask=tiles < num_tiles, other=NEVER)
    masses = tl.load(tile_masses + tiles, mask=tiles < num_tiles, other=0.0)
    maximum = tl.max(maxima, axis=0)
    limit = tl.sum(tl.where(maxima == NEVER, 0.0, masses * tl.exp(maxima - maximum)), axis=0)
    low = tl.full([], BELOW_ALL, tl.int32)
    high = tl.max(key_of(maxima), axis=0)
    token, key = candidate, low
    narrowed = (k > 0) | (floor_p > 0)
    if floor_p > 0:
        low = key_of(maximum + tl.log(floor_p)) - 1
    if k > 0:
        low = bound_of_k(tile_maxima, num_tiles, low, high, k, TILES_PADDED)
        num_listed = list_tiles(tile_maxima, tile_list, num_tiles, low, TILES_PADDED)
        low = threshold_of_k(logits, tile_list, num_listed, low, high, k, temperature, maximum, vocab_size, TILES, TILE)
    if narrowed:
        num_listed = list_tiles(tile_maxima, tile_list, num_tiles, low, TILES_PADDED)
        count, limit, token, key = survey(
            logits, tile_list, num_listed, low, temperature, maximum, seed, position, vocab_size, True, TILES, TILE
        )
    else:
        at = tl.load(logits + tl.minimum(candidate, vocab_size - 1)).to(tl.float32)
        key = key_of(tl.div_rn(at, temperature))
    searching = p < 1.0
    while searching:
        num_listed = list_tiles(tile_maxima, tile_list, num_tiles, key, TILES_PADDED)
        count, mass, next_token, next_key = survey(
            logits, tile_list, num_listed, key, temperature, maximum, seed, position, vocab_size, True, TILES, TILE
        )
        searching = (count > 0) & (mass >= p * limit)
        if searching:
            token = next_token
            key = next_key
    return token


@triton.jit(do_not_specialize=["num_parts"])
def choose_kernel(
    logits, temperature, top_k, top_p, min_p, seeds, seats, positions,
    best_scores, best_tokens, tile_maxima, tile_masses, tile_lists, out, written,
    vocab_size, num_tiles, logits_stride, num_parts, written_stride,
    SEATED: tl.constexpr,
    PARTS: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, TILES_PADDED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Choose the token of one row. SEATED: see the first pass; the token is put into `written` too, at the row's seat
    and position."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    seat = tl.load(seats + row).to(tl.int64) if SEATED else row
    position = tl.load(positions + row).to(tl.int64)
    heat, k, p, floor_p = (
        tl.load(temperature + seat), tl.load(top_k + seat), tl.load(top_p + seat), tl.load(min_p + seat)
    )  # fmt: skip
    parts = tl.arange(0, PARTS)
    scores = tl.load(best_scores + row * num_parts + parts, mask=parts < num_parts, other=NEVER)
    tokens = tl.load(best_tokens + row * num_parts + parts, mask=parts < num_parts, other=NO_TOKEN)
    largest = tl.max(scores, axis=0)
    token = tl.min(tl.where(scores == largest, tokens, NO_TOKEN), axis=0)
    if (heat > 0) & ((k > 0) | (p < 1.0) | (floor_p > 0)):
        token = draw_filtered(
            logits + row * logits_stride, tile_maxima + row * num_tiles, tile_masses + row * num_tiles,
            tile_lists + row * num_tiles, token, k, p, floor_p, heat, tl.load(seeds + seat), position,
            vocab_size, num_tiles, TILES, TILE, TILES_PADDED,
        )  # fmt: skip
    # A row of NaN has no largest score: it still gives a token of the vocabulary.
    token = tl.minimum(token, vocab_size - 1)
    tl.store(out + row, token.to(tl.int64))
    if SEATED:
        tl.store(written + seat * written_stride + position, token)
