"""Every way of stretching rotary positions, in both spellings of config.json, against transformers."""

import json

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quire.errors import ModelError
from quire.models.checkpoint_config import CheckpointConfig, read_config
from quire.models.rope_config import RopeConfig, read_rope
from quire.models.rotary import frequencies, make_table

from .checkpoints import LOCAL_AND_FULL, expected_logits, prompt, relative_error
from .harness import make_context

HEAD_DIM = 16
MAX_LEN = 64
VARIANTS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    "yarn with a given attention factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.25,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(HEAD_DIM // 2)],
        "long_factor": [2.0 + 0.5 * i for i in range(HEAD_DIM // 2)],
        "original_max_position_embeddings": 24,
    },
}


@pytest.fixture(params=sorted(VARIANTS))
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture
def described(variant):
    """The variant as transformers' config, and as Quire's."""
    config = LlamaConfig(
        hidden_size=48,
        num_attention_heads=3,
        max_position_embeddings=MAX_LEN,
        rope_parameters={**variant, "rope_theta": 5e5},
    )
    return config, read_rope(CheckpointConfig(config.to_dict()), HEAD_DIM)


def test_frequencies_are_those_of_transformers_at_the_length_served(described):
    config, rope = described
    expected, factor = ROPE_INIT_FUNCTIONS[rope.kind](config, seq_len=rope.longest)
    found = frequencies(rope, rope.longest)
    torch.testing.assert_close(found.inv_freq, expected, rtol=1e-6, atol=0)
    assert found.factor == pytest.approx(factor, rel=1e-6)


def test_the_spelling_before_transformers_5_means_the_same(described, variant):
    _, rope = described
    old = {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": MAX_LEN,
        "rope_theta": 5e5,
        "rope_scaling": {"type": variant["rope_type"], **{k: v for k, v in variant.items() if k != "rope_type"}},
    }
    assert read_rope(CheckpointConfig(old), HEAD_DIM) == rope


def test_logits_with_stretched_positions_are_those_of_transformers(write, variant):
    settings = {"head_dim": HEAD_DIM, "num_hidden_layers": 2, "max_position_embeddings": MAX_LEN}
    native = write("Llama", settings | {"rope_parameters": {**variant, "rope_theta": 1e4}})
    longest = native.runner().spec.max_model_len
    # As long as is served: there, what depends on the length in transformers has the length that Quire always takes.
    tokens = prompt(min(longest, 2 * MAX_LEN))
    (found,) = native.runner().logits([tokens])
    assert relative_error(found, expected_logits(native.model, tokens)) < 1e-4


@pytest.mark.parametrize("length", [23, 24, 25, 64])
def test_phi_3_takes_short_or_long_factors_by_the_length_served(write, length):
    scaling = {**VARIANTS["longrope"], "type": "longrope"}
    settings = {"num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": MAX_LEN}
    native = write("Phi3", settings | {"original_max_position_embeddings": 24, "rope_scaling": scaling})
    tokens = prompt(length)
    (found,) = native.runner(max_model_len=length).logits([tokens])
    assert relative_error(found, expected_logits(native.model, tokens)) < 1e-4


def test_local_and_full_layers_keep_their_own_frequencies(write):
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    settings = {"head_dim": HEAD_DIM, "sliding_window": 9, "layer_types": LOCAL_AND_FULL, "rope_parameters": ropes}
    native = write("Gemma3", settings)
    tokens = prompt(41)
    (found,) = native.runner().logits([tokens])
    assert relative_error(found, expected_logits(native.model, tokens)) < 1e-4


def test_gemma_3_in_the_old_spelling_means_the_same(write, tmp_path):
    settings = {"head_dim": HEAD_DIM, "sliding_window": 9, "layer_types": LOCAL_AND_FULL}
    scaling = {"rope_type": "linear", "factor": 8.0}
    native = write("Gemma3", settings | {"rope_scaling": scaling, "rope_theta": 5e5, "rope_local_base_freq": 2e3})
    config = dict(read_config(native.path).values)
    del config["rope_parameters"], config["layer_types"]
    config |= {"rope_scaling": scaling, "rope_theta": 5e5, "rope_local_base_freq": 2e3, "sliding_window_pattern": 2}
    for file in native.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = prompt(41)
    (found,) = native._replace(path=tmp_path).runner().logits([tokens])
    assert relative_error(found, expected_logits(native.model, tokens)) < 1e-4


def test_a_table_holds_cosines_then_sines_of_every_position():
    rope = RopeConfig(rotary_dim=6, rope_theta=100.0, max_len=11, original_max_len=11)
    table = make_table(make_context(), rope)
    angles = torch.arange(11)[:, None] * torch.tensor([1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)])
    torch.testing.assert_close(table, torch.cat([angles.cos(), angles.sin()], dim=-1))


def test_layers_without_positions_rotate_nothing():
    rope = RopeConfig(kind="none", rotary_dim=4, max_len=5, original_max_len=5)
    expected = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(5, 4)
    torch.testing.assert_close(make_table(make_context(), rope), expected)


def test_an_unknown_rope_type_is_refused_with_what_is_supported():
    config = CheckpointConfig({"max_position_embeddings": 9, "rope_scaling": {"type": "spiral"}})
    with pytest.raises(ModelError, match="rope type 'spiral'; supported are default, linear, dynamic"):
        read_rope(config, HEAD_DIM)


def test_an_unknown_rope_setting_is_refused():
    config = CheckpointConfig({"max_position_embeddings": 9, "rope_scaling": {"type": "linear", "faktor": 2.0}})
    with pytest.raises(ModelError, match="unknown rope settings \\['faktor'\\]"):
        read_rope(config, HEAD_DIM)


def test_a_missing_factor_is_named():
    config = CheckpointConfig({"max_position_embeddings": 9, "rope_scaling": {"type": "linear"}})
    with pytest.raises(ModelError, match="need 'factor'"):
        frequencies(read_rope(config, HEAD_DIM), 9)


def test_a_wrong_number_of_longrope_factors_is_named():
    config = {"max_position_embeddings": 9, "rope_scaling": {**VARIANTS["longrope"], "short_factor": [1.0]}}
    with pytest.raises(ModelError, match="longrope needs 8 factors, one per frequency; got 1"):
        frequencies(read_rope(CheckpointConfig(config), HEAD_DIM), 9)
