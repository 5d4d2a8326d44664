"""Penalties, filters and the draw: against transformers' processors, by statistics, and by what may not matter."""

import math

import pytest
import torch
from transformers.generation import logits_process

from quire.ops import reference
from quire.ops.philox import gumbel_noise
from quire.ops.reference.sampling import mask_min_p, mask_top_k_top_p

NO_IDS = torch.empty(1, 0, dtype=torch.int64)


def settings(num_rows, **given):
    """Return the arguments of `sample` for equal rows, all filters off; each row draws at a position of its own."""
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **given}
    tensors = {name: torch.full((num_rows,), value) for name, value in values.items()}
    return {
        **tensors,
        "top_k": tensors["top_k"].int(),
        "seeds": torch.full((num_rows,), 17),
        "positions": torch.arange(num_rows),
    }


def chi_square_limit(degrees: int) -> float:
    """The 99.9% point of the chi-square distribution (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 3.09 * math.sqrt(spread)) ** 3


def assert_drawn_from(tokens, probabilities):
    """Chi-square test of drawn tokens against probabilities; rare tokens share a bin."""
    expected = probabilities.double() * len(tokens)
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    observed = torch.cat((counts[common], counts[~common].sum()[None]))
    wanted = torch.cat((expected[common], expected[~common].sum()[None]))
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert statistic < chi_square_limit(max(len(wanted) - 1, 1))


# -- penalties -----------------------------------------------------------------------------------------------------


def penalise(logits, prompt=(), output=(), presence=0.0, frequency=0.0, repetition=1.0):
    mask = torch.zeros(logits.shape, dtype=torch.bool)
    mask[:, list(prompt)] = True
    counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=logits.shape[1]).int()[None]
    factors = (torch.tensor([value]) for value in (presence, frequency, repetition))
    return reference.apply_penalties(logits, mask, counts, *factors)


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_penalty_is_transformers(source, penalty):
    logits, prompt, output = source.normal(1, 31), (0, 3, 30), (3, 7, 7)
    processor = logits_process.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([[*prompt, *output]]), logits.clone())
    torch.testing.assert_close(penalise(logits, prompt, output, repetition=penalty), expected)


def test_presence_and_frequency_look_at_the_output_only():
    logits = torch.zeros(1, 5)
    actual = penalise(logits, prompt=(0, 1), output=(1, 2, 2, 2), presence=0.5, frequency=0.25)
    torch.testing.assert_close(actual, torch.tensor([[0.0, -0.75, -1.25, 0.0, 0.0]]))


def test_repetition_comes_before_frequency_and_presence():
    actual = penalise(torch.tensor([[4.0, -4.0]]), output=(0, 1), presence=1.0, frequency=0.5, repetition=2.0)
    torch.testing.assert_close(actual, torch.tensor([[2.0 - 1.5, -8.0 - 1.5]]))


def test_penalties_that_are_off_change_no_bit(source):
    logits = source.normal(1, 101)
    assert torch.equal(penalise(logits, prompt=(1, 2), output=(2, 3)), logits)


# -- filters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 5, 101, 1000])
def test_top_k_is_transformers(source, top_k):
    logits = source.normal(4, 101, scale=3.0)
    expected = logits_process.TopKLogitsWarper(top_k)(NO_IDS, logits)
    arguments = settings(4, top_k=top_k)
    assert torch.equal(mask_top_k_top_p(logits, arguments["top_k"], arguments["top_p"]), expected)


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_is_transformers(source, top_p):
    logits = source.normal(4, 101, scale=3.0)
    expected = logits_process.TopPLogitsWarper(top_p)(NO_IDS, logits)
    arguments = settings(4, top_p=top_p)
    assert torch.equal(mask_top_k_top_p(logits, arguments["top_k"], arguments["top_p"]), expected)


def test_top_p_takes_its_mass_from_what_top_k_left(source):
    logits = source.normal(4, 101, scale=3.0)
    expected = logits_process.TopPLogitsWarper(0.8)(NO_IDS, logits_process.TopKLogitsWarper(7)(NO_IDS, logits))
    arguments = settings(4, top_k=7, top_p=0.8)
    assert torch.equal(mask_top_k_top_p(logits, arguments["top_k"], arguments["top_p"]), expected)


@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.5, 1.0])
def test_min_p_is_transformers(source, min_p):
    logits = source.normal(4, 101, scale=3.0)
    expected = logits_process.MinPLogitsWarper(min_p)(NO_IDS, logits)
    assert torch.equal(mask_min_p(logits, torch.full((4,), min_p)), expected)


def test_equal_logits_stay_or_go_together():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]])
    for top_k, top_p in ((1, 1.0), (2, 1.0), (0, 0.3), (0, 0.5), (2, 0.1)):
        masked = mask_top_k_top_p(logits, torch.tensor([top_k]), torch.tensor([top_p]))
        assert masked.isfinite().tolist() == [[False, True, True, False, True]]


def test_filters_that_are_off_change_no_bit(source):
    logits = source.normal(3, 4099, scale=20.0)
    masked = mask_top_k_top_p(
        mask_min_p(logits, torch.zeros(3)), torch.tensor([0, 5, 0]), torch.tensor([1.0, 1.0, 0.5])
    )
    assert torch.equal(masked[0], logits[0])


def test_each_row_has_its_own_filters(source):
    logits = source.normal(3, 101, scale=3.0)
    masked = mask_top_k_top_p(logits, torch.tensor([0, 5, 0]), torch.tensor([0.9, 1.0, 1.0]))
    assert torch.equal(masked[0], logits_process.TopPLogitsWarper(0.9)(NO_IDS, logits[:1])[0])
    assert masked.isfinite().sum(-1)[1:].tolist() == [5, 101]


# -- the draw ------------------------------------------------------------------------------------------------------


def test_temperature_0_takes_the_largest_logit_and_the_lowest_id_of_a_tie():
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0], [7.0, 7.0, 7.0, 7.0], [-math.inf, -3.0, -math.inf, -4.0]])
    assert reference.sample(logits, **settings(3, temperature=0.0)).tolist() == [1, 0, 1]


def test_greedy_rows_ignore_filters_and_noise(source):
    logits = source.normal(5, 101)
    greedy = reference.sample(logits, **settings(5, temperature=0.0, top_k=3, top_p=0.2, min_p=0.9))
    assert torch.equal(greedy, logits.argmax(-1))


def test_the_draw_is_the_largest_sum_of_scaled_logit_and_noise(source):
    logits, arguments = source.normal(7, 101), settings(7, temperature=0.7)
    noise = gumbel_noise(arguments["seeds"], arguments["positions"], 101)
    assert torch.equal(reference.sample(logits, **arguments), (logits / torch.tensor(0.7) + noise).argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(source, temperature):
    logits = source.normal(1, 37, scale=2.0)
    tokens = reference.sample(logits.expand(20_000, -1), **settings(20_000, temperature=temperature))
    assert_drawn_from(tokens, (logits[0] / temperature).softmax(-1))


def test_draws_by_seed_follow_the_softmax_too(source):
    logits = source.normal(1, 37, scale=2.0)
    arguments = {**settings(20_000), "seeds": torch.arange(20_000), "positions": torch.full((20_000,), 9)}
    assert_drawn_from(reference.sample(logits.expand(20_000, -1), **arguments), logits[0].softmax(-1))


@pytest.mark.parametrize("filters", [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.7}])
def test_draws_follow_the_softmax_of_what_the_filters_leave(source, filters):
    logits = source.normal(1, 37, scale=2.0)
    arguments = settings(20_000, temperature=1.5, **filters)
    one = {name: values[:1] for name, values in arguments.items()}
    masked = mask_top_k_top_p(mask_min_p(logits / 1.5, one["min_p"]), one["top_k"], one["top_p"])
    assert masked.isinf().any()
    assert_drawn_from(reference.sample(logits.expand(20_000, -1), **arguments), masked[0].softmax(-1))


def test_temperature_comes_before_top_p():
    logits = torch.tensor([[4.0, 3.0, 2.0]])  # at temperature 4 the first two hold less than 0.8 of the mass
    tokens = reference.sample(logits.expand(500, -1), **settings(500, temperature=4.0, top_p=0.8))
    assert set(tokens.tolist()) == {0, 1, 2}
    assert set(reference.sample(logits.expand(500, -1), **settings(500, top_p=0.8)).tolist()) == {0, 1}


def test_a_hopeless_token_is_not_drawn_out_of_a_large_vocabulary():
    logits = torch.full((1, 131_072), -60.0)
    logits[0, 77] = 0.0
    tokens = [reference.sample(logits, **{**settings(1), "seeds": torch.tensor([seed])}).item() for seed in range(40)]
    assert tokens == [77] * 40


def test_a_draw_does_not_depend_on_the_batch(source):
    logits = source.normal(9, 257, scale=3.0)
    arguments = {
        "temperature": torch.tensor([1.0, 0.0, 0.7, 1.0, 2.0, 0.0, 1.0, 1.0, 0.3]),
        "top_k": torch.tensor([0, 0, 5, 0, 0, 3, 0, 40, 0], dtype=torch.int32),
        "top_p": torch.tensor([1.0, 1.0, 1.0, 0.9, 1.0, 0.5, 1.0, 0.8, 1.0]),
        "min_p": torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.05, 0.0]),
        "seeds": source.integers(2**40, 9),
        "positions": source.integers(1000, 9),
    }
    together = reference.sample(logits, **arguments)
    for order in (torch.arange(9).flip(0), torch.tensor([4]), torch.tensor([7, 2, 3])):
        picked = {name: values[order] for name, values in arguments.items()}
        assert torch.equal(reference.sample(logits[order], **picked), together[order])


def test_tokens_of_minus_infinity_are_never_drawn(source):
    logits = torch.full((200, 101), -math.inf)
    logits[:, [3, 50, 100]] = 0.0
    assert set(reference.sample(logits, **settings(200, temperature=5.0)).tolist()) == {3, 50, 100}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_gives_some_valid_id_and_leaves_other_rows_alone(source, temperature):
    logits = source.normal(3, 101)
    clean = reference.sample(logits, **settings(3, temperature=temperature, top_p=0.9))
    logits[1, 5] = math.nan
    tokens = reference.sample(logits, **settings(3, temperature=temperature, top_p=0.9))
    assert 0 <= tokens[1] < 101
    assert torch.equal(tokens[[0, 2]], clean[[0, 2]])
