"""Every native architecture against transformers, fp32, computed in every way that an engine computes."""

import copy

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from .checkpoints import SIZES, expected_logits, expected_tokens, prompt, relative_error
from .harness import Runner

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


def test_wanted_tokens_have_the_hidden_states_that_they_have_among_all(native):
    chunks, wanted = [prompt(11), prompt(6, seed=1)], torch.tensor([16, 10, 0, 10])
    runner, other = native.runner(num_rows=2), native.runner(num_rows=2)
    found, everything = runner.hidden(chunks, wanted), other.hidden(chunks)
    assert relative_error(found, everything[wanted]) < TOLERANCE
    for pair, expected in zip(runner.caches, other.caches, strict=True):
        torch.testing.assert_close(pair, expected, equal_nan=True)


def test_where_no_token_is_wanted_keys_and_values_are_written_all_the_same(native):
    chunks, rest = [prompt(11), prompt(6, seed=1)], [[7], [8]]
    runner, other = native.runner(num_rows=2), native.runner(num_rows=2)
    assert runner.hidden(chunks, torch.arange(0)).shape == (0, other.hidden(chunks).shape[1])
    assert relative_error(runner.hidden(rest), other.hidden(rest)) < TOLERANCE


def test_the_spec_counts_the_weights_of_transformers(native):
    assert native.runner().spec.num_parameters == native.model.num_parameters()


def test_in_bfloat16_it_is_as_near_to_float32_as_transformers_is(native):
    tokens = prompt(37)
    rounded = copy.deepcopy(native.model).bfloat16()
    exact = expected_logits(copy.deepcopy(rounded).float(), tokens)
    (found,) = native.runner(dtype=torch.bfloat16).logits([tokens])
    assert (found - exact).norm() < 1.5 * (expected_logits(rounded, tokens) - exact).norm()


def test_gemma_3_with_vision_serves_its_text_part(tmp_path):
    torch.manual_seed(0)
    text = SIZES | {"head_dim": 16, "sliding_window": 9}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4}
    config = Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, **ids)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    tokens = prompt(23)
    (found,) = Runner(tmp_path).logits([tokens])
    assert relative_error(found, expected_logits(model, tokens)) < TOLERANCE


@pytest.mark.parametrize("family", ["Qwen3", "Gemma2"])
def test_a_checkpoint_of_the_body_alone_is_read(write, tmp_path, family):
    written = write(family, {"head_dim": 16, "tie_word_embeddings": True})
    written.model.model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((written.path / "config.json").read_bytes())
    tokens = prompt(7)
    (found,) = Runner(tmp_path).logits([tokens])
    assert relative_error(found, expected_logits(written.model, tokens)) < TOLERANCE
