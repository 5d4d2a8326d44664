"""The sampler draws the very tokens of the reference, whatever the filters and however flat the logits."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from quire.ops import philox, reference
from quire_kernels_triton.philox import gumbel_noise, words_of_tiles
from quire_kernels_triton.sampling import Sample


@triton.jit
def noise_kernel(seeds, positions, words, noise, TILES: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0)
    tiles = tl.arange(0, TILES)
    found = words_of_tiles(tiles * TILE, tl.load(seeds + row), tl.load(positions + row), TILES, TILE)
    at = row * TILES * TILE + tiles[:, None] * TILE + tl.arange(0, TILE)[None, :]
    tl.store(words + at, found.to(tl.int64))
    tl.store(noise + at, gumbel_noise(found))


def test_noise_is_the_definitions_bit_for_bit():
    seeds = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789012345678])
    positions = torch.tensor([0, 1, 4095, 2**31, 2**32 + 5, 77])
    words = torch.empty(6, 128, dtype=torch.int64)
    noise = torch.empty(6, 128)
    noise_kernel[(6,)](seeds, positions, words, noise, TILES=4, TILE=32)
    assert torch.equal(words, philox.random_words(seeds, positions, 128))
    torch.testing.assert_close(noise, philox.gumbel_noise(seeds, positions, 128), rtol=3e-7, atol=1e-7)


def rows(count, vocab_size, spread, seed, **filters):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, vocab_size, generator=generator) * spread
    given = {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **filters}
    columns = {name: torch.full((count,), value) for name, value in given.items()}
    columns["top_k"] = columns["top_k"].int()
    return {
        "logits": logits,
        **columns,
        "seeds": torch.randint(1 << 62, (count,), generator=generator),
        "positions": torch.randint(1 << 20, (count,), generator=generator),
    }


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 40},
        {"top_k": 299},
        {"top_p": 0.1},
        {"top_p": 0.9},
        {"min_p": 0.2},
        {"top_k": 20, "top_p": 0.7},
        {"top_k": 20, "top_p": 0.5, "min_p": 0.01},
        {"temperature": 1e-3, "top_p": 0.9},
        {"temperature": 50.0, "top_k": 5},
    ],
    ids=str,
)
def test_filters_leave_the_references_draw(target, filters, spread):
    inputs = rows(2, 301, spread, 11, **filters)
    assert torch.equal(Sample(target).sample(**inputs), reference.sample(**inputs))


def test_clustered_tokens_are_found_though_they_share_a_tile(target):
    inputs = rows(3, 301, 0.1, 5, top_k=12, top_p=0.9)
    inputs["logits"][:, 64:84] += 8.0
    assert torch.equal(Sample(target).sample(**inputs), reference.sample(**inputs))


def test_a_row_of_nan_or_of_nothing_allowed_gives_a_token_of_the_vocabulary(target):
    for value in (float("nan"), float("-inf")):
        for filters in ({"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}):
            inputs = rows(1, 70, 1.0, 3, **filters)
            inputs["logits"].fill_(value)
            assert 0 <= int(Sample(target).sample(**inputs)) < 70
