"""Architectures that only transformers knows, over Quire's paged cache; and those that must be refused."""

import copy
import json

import pytest
import torch

from quire.errors import ModelError
from quire.models import loader, registry
from quire.models.checkpoint_config import read_json

from .checkpoints import expected_logits, expected_tokens, prompt, relative_error, write_checkpoint
from .harness import Runner, make_context

SERVED = {
    "cohere: scaled logits, parallel branches": ("Cohere", {}),
    "cohere 2: windows, layers without positions": ("Cohere2", {"sliding_window": 9, "num_hidden_layers": 4}),
    "gpt 2: learned positions, tied head": ("GPT2", {"num_key_value_heads": ...}),
    "gpt neox: partial rotation, fused projections": ("GPTNeoX", {"num_key_value_heads": ...}),
    "gpt oss: sinks, windows, fused experts": (
        "GptOss",
        {"sliding_window": 9, "num_local_experts": 4, "head_dim": 16, "rope_parameters": {"rope_type": "default"}},
    ),
    "nemotron: its own norm and activation": ("Nemotron", {}),
    "opt: positions with an offset, a body inside the body": ("OPT", {"ffn_dim": 80, "word_embed_proj_dim": 32}),
    "qwen 2 moe: experts stored one by one": ("Qwen2Moe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "stablelm: hands no keyword arguments through": ("StableLm", {}),
    "starcoder 2: windows, biases": ("Starcoder2", {"sliding_window": 9}),
    "vaultgemma: soft caps": ("VaultGemma", {"head_dim": 16, "sliding_window": 9}),
}
REFUSED = {
    "DiffLlama": ({}, "called attention 6 times in 3 layers"),
    "Bloom": ({}, "called attention 0 times"),
    "Mamba": ({}, "linear_attention"),
    "FalconH1": ({}, "layers of type"),
    "Falcon": ({}, "does not run with an attention of Quire's"),
    "Starcoder2": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope type dynamic"),
}


def settings_of(name):
    # transformers multiplies experts in groups, and wants multiples of 16 bytes for that.
    family, settings = SERVED[name]
    return family, {"num_hidden_layers": 2, "intermediate_size": 80} | settings


@pytest.fixture(params=sorted(SERVED))
def served(request, write):
    return write(*settings_of(request.param))


def test_greedy_tokens_are_those_of_transformers(served):
    tokens = prompt(13)
    assert served.runner().generate(tokens, 24) == expected_tokens(served.model, tokens, 24)


def test_logits_in_ragged_chunks_are_those_of_transformers(served):
    tokens = prompt(37)
    runner = served.runner(num_rows=2)
    first, second = runner.logits([tokens[:20], tokens[:9]]), runner.logits([tokens[20:], tokens[9:]])
    expected = expected_logits(served.model, tokens)
    for row in (0, 1):
        assert relative_error(torch.cat([first[row], second[row]]), expected) < 1e-4


def test_wanted_tokens_have_the_hidden_states_that_they_have_among_all(served):
    chunks, wanted = [prompt(9), prompt(5, seed=1)], torch.tensor([13, 8])
    found = served.runner(num_rows=2).hidden(chunks, wanted)
    assert torch.equal(found, served.runner(num_rows=2).hidden(chunks)[wanted])


def test_the_spec_is_that_of_the_model(served):
    spec = served.runner().spec
    assert spec.num_parameters == served.model.num_parameters()
    assert spec.num_layers == served.model.config.num_hidden_layers
    assert spec.architecture == served.model.config.architectures[0]


def test_windows_and_sinks_are_found_out(write):
    cohere = write(*settings_of("cohere 2: windows, layers without positions")).runner().spec
    assert cohere.windows == (9, 9, 9, None)
    assert not cohere.sinks
    assert write(*settings_of("gpt oss: sinks, windows, fused experts")).runner().spec.sinks


def test_a_checkpoint_without_the_bodys_prefix_is_read(write, tmp_path):
    # GPT-2's own checkpoint on the hub has "h.0…" where transformers' model has "transformer.h.0…".
    model = write_checkpoint(tmp_path, "GPT2", {"num_key_value_heads": ...})
    model.transformer.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("GPT2Model", "GPT2LMHeadModel"))
    tokens = prompt(7)
    assert relative_error(Runner(tmp_path).logits([tokens])[0], expected_logits(model, tokens)) < 1e-4


def test_every_weight_is_allocated_through_the_context(write):
    written = write(*settings_of("gpt 2: learned positions, tied head"))
    model = registry.build(written.path, written.runner().spec, make_context())
    sizes = [torch.Size(parameter.shape).numel() for parameter in model.parameters()]
    assert sum(sizes) == written.model.num_parameters()


def test_loading_draws_nothing_where_there_is_no_terminal(tmp_path, capfd):
    write_checkpoint(tmp_path, "StableLm", {})
    capfd.readouterr()
    Runner(tmp_path)
    assert capfd.readouterr().err == ""


def test_dummy_weights_give_finite_logits(write):
    runner = write(*settings_of("stablelm: hands no keyword arguments through")).runner()
    loader.fill_dummy(runner.model, 0)
    assert runner.logits([prompt(7)])[0].isfinite().all()


def test_in_bfloat16_it_is_as_near_to_float32_as_transformers_is(served):
    tokens = prompt(37)
    rounded = copy.deepcopy(served.model).bfloat16()
    exact = expected_logits(copy.deepcopy(rounded).float(), tokens)
    (found,) = served.runner(dtype=torch.bfloat16).logits([tokens])
    assert (found - exact).norm() < 1.5 * (expected_logits(rounded, tokens) - exact).norm()


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    write_checkpoint(tmp_path, "StableLm", {})
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    model = registry.build(tmp_path, registry.read_spec(tmp_path), make_context())
    with pytest.raises(ModelError, match="cut off or no safetensors file"):
        loader.load_weights(model, tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    write_checkpoint(tmp_path, "StableLm", {})
    config = read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    model = registry.build(tmp_path, registry.read_spec(tmp_path), make_context())
    with pytest.raises(ModelError, match="does not fit its config.json: .*missing_keys.*model.layers.3"):
        loader.load_weights(model, tmp_path)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_what_cannot_be_served_right_is_refused(tmp_path, family):
    settings, reason = REFUSED[family]
    write_checkpoint(tmp_path, family, settings)
    with pytest.raises(ModelError, match=f"{family}.* is not native and cannot run through transformers: .*{reason}"):
        registry.read_spec(tmp_path)
