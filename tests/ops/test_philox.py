"""The noise: known answers, an independent implementation, and what a sampler needs of it."""

import math

import pytest
import torch

from quire.ops.philox import (
    MAX_NOISE,
    MIN_NOISE,
    Words,
    exponentials,
    gumbel_noise,
    philox4x32,
    random_words,
)

MASK = 0xFFFFFFFF

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, output.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """The paper's definition on Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_known_answers(counter, key, output):
    tensors = [torch.tensor([word]) for word in words(counter)]
    key0, key1 = (torch.tensor([word]) for word in words(key))
    assert [int(word) for word in philox4x32(Words(*tensors), key0, key1)] == words(output)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
@pytest.mark.parametrize("position", [0, 7, 2**32 - 1, 2**32 + 3])
def test_a_tokens_word_is_its_lane_of_the_counter_that_is_stated(seed, position):
    vocab_size = 11
    actual = random_words(torch.tensor([seed]), torch.tensor([position]), vocab_size)[0].tolist()
    key = [seed & MASK, (seed >> 32) & MASK]
    for token_id in range(vocab_size):
        expected = plain_philox([token_id // 4, position & MASK, position >> 32, 0], key)[token_id % 4]
        assert actual[token_id] == expected


def test_noise_depends_on_nothing_but_seed_position_and_token():
    seeds, positions = torch.tensor([3, 9, 3]), torch.tensor([5, 5, 6])
    batch = gumbel_noise(seeds, positions, 101)
    alone = gumbel_noise(seeds[1:2], positions[1:2], 37)
    assert torch.equal(batch[1, :37], alone[0])
    assert not torch.equal(batch[0], batch[2])


def test_noise_is_finite_and_within_its_bounds_at_the_ends():
    ends = torch.tensor([0, 1, 2**24, 2**32 - 2**8, 2**32 - 1])
    noise = -exponentials(ends).log()
    assert noise.isfinite().all()
    assert noise.max() < MAX_NOISE
    assert noise.min() > MIN_NOISE
    assert noise.max() > MAX_NOISE - 0.01
    assert noise.min() < MIN_NOISE + 0.01


def test_exponentials_are_accurate_at_every_scale():
    r = torch.cat((torch.arange(64), 2 ** torch.arange(6, 32), 2 ** torch.arange(6, 32) * 3 // 2))
    expected = -torch.log1p(-((r.double() + 0.5) / 2**32))
    small = expected < 5  # above, float32's u is coarse by design
    ratio = exponentials(r).double() / expected
    assert (ratio[small] - 1).abs().max() < 2e-5
    assert (ratio[expected < 0.5] - 1).abs().max() < 5e-7


def test_the_form_without_log1p_agrees():
    r = random_words(torch.tensor([5]), torch.tensor([0]), 100_000)[0]
    u = (r.float() * 2**-32 + 2**-33).clamp(max=1 - 2**-24)
    w = 1 - u
    other = torch.where(w == 1, u, -w.log() * (u / (1 - w)))
    torch.testing.assert_close(other, exponentials(r), rtol=5e-7, atol=0)


def test_exponentials_are_exponential():
    # Kolmogorov-Smirnov: with n samples the distance exceeds 1.95 / sqrt(n) for 0.1% of seeds; these are fixed.
    samples = exponentials(random_words(torch.tensor([42, 43]), torch.tensor([1, 2]), 50_000).flatten())
    ordered = samples.double().sort().values
    expected = 1 - torch.exp(-ordered)
    steps = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (expected - steps).abs().max() < 1.95 / math.sqrt(len(ordered))


def test_neighbouring_seeds_positions_and_tokens_are_uncorrelated():
    seeds = torch.arange(200)
    noise = gumbel_noise(seeds, torch.zeros(200, dtype=torch.int64), 500)
    later = gumbel_noise(seeds, torch.ones(200, dtype=torch.int64), 500)
    for first, second in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise, later)):
        correlation = torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(first.numel())
