"""From config.json to a spec."""

import json
import subprocess
import sys

import pytest

from quire.errors import ModelError
from quire.models.registry import RECIPES, read_spec

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "eos_token_id": 128001,
}


@pytest.fixture
def read(tmp_path):
    """Write config.json and read its spec."""

    def read_config(config, **files):
        for name, values in {"config": config, **files}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(values))
        return read_spec(tmp_path)

    return read_config


def test_llama_3_8b_has_its_published_numbers(read):
    spec = read(LLAMA_8B)
    assert spec.num_parameters == 8_030_261_248
    assert (spec.num_layers, spec.num_kv_heads, spec.head_dim) == (32, 8, 128)
    assert (spec.dtype, spec.max_model_len, spec.eos_token_ids) == ("bfloat16", 8192, (128001,))
    assert spec.kv_bytes_per_token(2) == 131_072


def test_generation_config_adds_ends_of_sequence(read):
    spec = read(LLAMA_8B, generation_config={"eos_token_id": [128009, 128001]})
    assert spec.eos_token_ids == (128001, 128009)


def test_windows_are_given_layer_by_layer(read):
    gemma = {"head_dim": 256, "sliding_window": 4096, "architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 3}
    spec = read(LLAMA_8B | gemma | {"attn_logit_softcapping": 50.0})
    assert spec.windows == (4096, None, 4096)
    assert spec.soft_cap == 50.0


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}, 32768),
        ({"rope_type": "dynamic", "factor": 2.0}, 16384),
        ({"rope_type": "linear", "factor": 2.0}, 8192),
    ],
)
def test_the_longest_context_counts_what_stretching_adds(read, scaling, longest):
    assert read(LLAMA_8B | {"rope_scaling": scaling}).max_model_len == longest


def test_reading_a_spec_imports_no_torch(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    code = (
        "import sys, pathlib; from quire.models.registry import read_spec; "
        f"read_spec(pathlib.Path({str(tmp_path)!r})); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_what_the_first_gemma_3_checkpoints_leave_out_is_known(read):
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16"}
    spec = read(config | {"text_config": text, "eos_token_id": [1, 106]})
    assert (spec.vocab_size, spec.num_heads, spec.num_kv_heads, spec.head_dim) == (262_208, 8, 4, 256)
    assert spec.windows[:6] == (1024, 1024, 1024, 1024, 1024, None)
    assert spec.num_parameters == 3_880_263_168
    assert (spec.max_model_len, spec.eos_token_ids, spec.soft_cap) == (131_072, (1, 106), None)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has no config.json; a model folder needs"):
        read_spec(tmp_path)


def test_a_config_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{'a': 1}")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_spec(tmp_path)


def test_a_missing_key_is_named(read):
    with pytest.raises(ModelError, match="has no 'num_hidden_layers', which LlamaForCausalLM needs"):
        read({key: value for key, value in LLAMA_8B.items() if key != "num_hidden_layers"})


def test_a_config_without_architectures_is_refused(read):
    with pytest.raises(ModelError, match="names no architectures"):
        read({key: value for key, value in LLAMA_8B.items() if key != "architectures"})


def test_an_architecture_that_nobody_knows_is_refused_with_the_native_ones(read):
    with pytest.raises(ModelError, match=f"NobodyForCausalLM.*{sorted(RECIPES)[0]}"):
        read({"architectures": ["NobodyForCausalLM"], "model_type": "nobody"})


def test_quantized_weights_are_refused_by_name(read):
    with pytest.raises(ModelError, match="quantized with gptq"):
        read(LLAMA_8B | {"quantization_config": {"quant_method": "gptq"}})


def test_heads_that_do_not_divide_are_refused(read):
    with pytest.raises(ModelError, match="32 query heads cannot share 5 KV heads evenly"):
        read(LLAMA_8B | {"num_key_value_heads": 5})


def test_an_unknown_activation_is_refused(read):
    with pytest.raises(ModelError, match="activation 'relu6'; supported are silu"):
        read(LLAMA_8B | {"hidden_act": "relu6"})


def test_an_unknown_layer_type_is_refused(read):
    config = LLAMA_8B | {"architectures": ["Qwen3ForCausalLM"], "layer_types": ["full_attention", "chunked_attention"]}
    with pytest.raises(ModelError, match=r"layers of type \['chunked_attention'\]"):
        read(config)
