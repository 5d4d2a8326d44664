"""Every native architecture against transformers, fp32, computed in every way that an engine computes."""

import torch

from .checkpoints import expected_logits, expected_tokens, prompt, relative_error

TOLERANCE = 1e-4


def test_logits_are_those_of_transformers(native):
    tokens = prompt(37)
    (found,) = native.runner().logits([tokens])
    assert found.dtype == torch.float32
    assert relative_error(found, expected_logits(native.model, tokens)) < TOLERANCE


def test_greedy_tokens_are_those_of_transformers_over_64_steps(native):
    tokens = prompt(13, seed=1)
    assert native.runner().generate(tokens, 64) == expected_tokens(native.model, tokens, 64)


def test_a_prompt_computed_in_chunks_gives_the_logits_of_the_whole(native):
    tokens = prompt(37)
    runner = native.runner()
    found = torch.cat([runner.logits([tokens[start:end]])[0] for start, end in ((0, 1), (1, 8), (8, 25), (25, 37))])
    assert relative_error(found, expected_logits(native.model, tokens)) < TOLERANCE


def test_rows_of_a_ragged_batch_do_not_disturb_each_other(native):
    prompts = [prompt(length, seed=length) for length in (1, 23, 5)]
    runner = native.runner(num_rows=3)
    runner.logits([tokens[: len(tokens) // 2] or tokens for tokens in prompts])
    found = runner.logits([tokens[len(tokens) // 2 :] for tokens in prompts])
    for logits, tokens in list(zip(found, prompts, strict=True))[1:]:
        expected = expected_logits(native.model, tokens)[len(tokens) // 2 :]
        assert relative_error(logits, expected) < TOLERANCE


def test_the_spec_counts_the_weights_of_transformers(native):
    assert native.runner().spec.num_parameters == native.model.num_parameters()
