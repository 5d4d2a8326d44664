"""The sampler's noise: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011), a counter-based generator.

A draw depends on a request's seed, a token id and a position, and on nothing else: not on the batch, the step, the
kernel or the machine. Every backend's sampler follows this definition:

1. ``key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)``, the halves of the 64-bit seed;
   ``counter = (token_id // 4, position & 0xFFFFFFFF, (position >> 32) & 0xFFFFFFFF, 0)``, where `position` is that of
   the token being drawn. One call yields four 32-bit words; token `token_id` takes word ``r = words[token_id % 4]``.
2. ``u = min(float32(r) * 2**-32 + 2**-33, 1 - 2**-24)`` in float32, conversion rounded to nearest even.
3. ``E = -log1p(-u)`` in float32: exponential of rate 1. Where log1p is missing: with ``w = 1 - u``, take
   ``E = u if w == 1 else -log(w) * (u / (1 - w))``.
4. The token's score is ``logit / temperature - log(E)`` in float32; the largest score wins, the lowest id a tie.

Why this form. The winner is usually a token with small E, so E is built from u near 0, where float32 is finest. Built
as ``-log(u)`` from u near 1, the smallest E would be 2**-24 or, after rounding, 0: an infinite score, which in a
vocabulary of 128k would hit some hopeless token once in 130 draws. The sum needs no maximum, so one pass over the
vocabulary is enough, and a split vocabulary only compares scores. Noise is at most `MAX_NOISE`, so a token with
``logit / temperature + MAX_NOISE`` below the best score so far needs none at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MAX_NOISE = 22.88  # just above -log(E) at r = 0
MIN_NOISE = -2.82  # just below it at r = 2**32 - 1

_MASK = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85


class Words(NamedTuple):
    """Four 32-bit words in int64 tensors of shapes that broadcast."""

    w0: torch.Tensor
    w1: torch.Tensor
    w2: torch.Tensor
    w3: torch.Tensor


def philox4x32(counter: Words, key0: torch.Tensor, key1: torch.Tensor, rounds: int = 10) -> Words:
    """Return the generator's output for each counter and key; all are int64 tensors that hold 32-bit values."""
    for _ in range(rounds):
        high0, low0 = _multiply(counter.w0, _MULTIPLIER_0)
        high1, low1 = _multiply(counter.w2, _MULTIPLIER_1)
        counter = Words(high1 ^ counter.w1 ^ key0, low1, high0 ^ counter.w3 ^ key1, low0)
        key0, key1 = (key0 + _WEYL_0) & _MASK, (key1 + _WEYL_1) & _MASK
    return counter


def random_words(seeds: torch.Tensor, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return the word r of every token, [R, V] int64 in 0 … 2**32 - 1, for seeds and positions [R] int64."""
    groups = torch.arange(-(-vocab_size // 4), device=seeds.device)[None]
    seeds, positions = seeds[:, None], positions[:, None]
    counter = Words(groups, positions & _MASK, (positions >> 32) & _MASK, torch.zeros_like(groups))
    words = philox4x32(counter, seeds & _MASK, (seeds >> 32) & _MASK)
    return torch.stack(words, dim=-1).flatten(1)[:, :vocab_size]


def exponentials(words: torch.Tensor) -> torch.Tensor:
    """Return E, float32, of words r."""
    uniform = words.to(torch.float32) * 2**-32 + 2**-33
    return -torch.log1p(-uniform.clamp(max=1 - 2**-24))


def gumbel_noise(seeds: torch.Tensor, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return -log(E) of every token, [R, V] float32, for seeds and positions [R] int64."""
    return -exponentials(random_words(seeds, positions, vocab_size)).log()


def _multiply(word: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the high and low word of the 64-bit product; int64 wraps, and its bits are the unsigned product's."""
    product = word * multiplier
    return (product >> 32) & _MASK, product & _MASK
