"""Scales of an 8-bit KV cache in a checkpoint: folded into the weights, which changes nothing but the range."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.errors import ModelError

from .checkpoints import NATIVE
from .harness import Runner

FAMILIES = ("llama", "llama with biases and wide heads", "qwen 3", "gemma 3", "phi 3", "olmo 2", "mixtral")
NAMES = ("{}k_scale", "{}v_scale"), ("{}attn.k_scale", "{}attn.v_scale"), ("{}k_proj.k_scale", "{}v_proj.v_scale")
PROMPT = [5, 17, 3, 99, 42, 8, 61]
FLOAT8 = torch.float8_e4m3fn


@pytest.fixture
def rewrite(tmp_path):
    """Copy a checkpoint with its tensors changed by a function."""

    def make(written, change):
        shutil.copytree(written.path, tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    return make


def layers_of(tensors):
    return sorted({name.split("self_attn.")[0] + "self_attn." for name in tensors if "self_attn." in name})


def add_scales(names, k_scale=0.013, v_scale=3.7):
    def change(tensors):
        for at, layer in enumerate(layers_of(tensors)):
            tensors[names[0].format(layer)] = torch.tensor(k_scale * (at + 1))
            tensors[names[1].format(layer)] = torch.tensor([v_scale])

    return change


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_dtype", [None, FLOAT8])
def test_scales_change_nothing_in_a_cache_that_rounds_nothing(write, rewrite, family, kv_dtype):
    written = write(*NATIVE[family])
    expected = written.runner().logits([PROMPT])[0]
    path = rewrite(written, add_scales(NAMES[0]))
    found = Runner(path, kv_dtype=kv_dtype, cache_dtype=torch.float32).logits([PROMPT])[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_cached_values_are_what_the_scales_make_of_them(write, rewrite):
    written = write(*NATIVE["llama"])
    path = rewrite(written, add_scales(NAMES[0], k_scale=3.0, v_scale=0.5))
    plain, folded = written.runner(), Runner(path, kv_dtype=FLOAT8, cache_dtype=torch.float32)
    for runner in (plain, folded):
        runner.logits([PROMPT])
    (keys, values), (scaled_keys, scaled_values) = plain.caches[0], folded.caches[0]
    assert torch.equal(scaled_keys.nan_to_num() * 4, keys.nan_to_num())
    assert torch.equal(scaled_values.nan_to_num() * 0.5, values.nan_to_num())


@pytest.mark.parametrize("names", NAMES)
def test_keys_beyond_the_range_of_eight_bits_need_their_scales(write, rewrite, names):
    def enlarge(tensors):
        for layer in layers_of(tensors):
            tensors[f"{layer}k_proj.weight"] *= 4096
            tensors[f"{layer}q_proj.weight"] /= 4096

    written = write(*NATIVE["llama"])
    expected = written.runner().logits([PROMPT])[0]
    saturated = Runner(rewrite(written, enlarge), kv_dtype=FLOAT8).logits([PROMPT])[0]

    def enlarge_and_scale(tensors):
        enlarge(tensors)
        add_scales(names, k_scale=512.0, v_scale=0.01)(tensors)

    scaled = Runner(rewrite(written, enlarge_and_scale), kv_dtype=FLOAT8).logits([PROMPT])[0]
    assert (scaled - expected).abs().max() < 0.5 * (saturated - expected).abs().max()


@pytest.mark.parametrize("dtype", [torch.int8, FLOAT8])
def test_weights_that_are_codes_are_refused_with_scales_as_without(write, rewrite, dtype):
    def encode(tensors):
        add_scales(NAMES[0])(tensors)
        for layer in layers_of(tensors):
            tensors[f"{layer}k_proj.weight"] = tensors[f"{layer}k_proj.weight"].to(dtype)

    with pytest.raises(ModelError, match=r"k_proj\.weight holds torch\.\w+, which looks quantized"):
        Runner(rewrite(write(*NATIVE["llama"]), encode), kv_dtype=FLOAT8)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused_by_name(write, rewrite, scale):
    path = rewrite(write(*NATIVE["llama"]), add_scales(NAMES[0], k_scale=scale))
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.k_scale is \[.*must be one positive number"):
        Runner(path, kv_dtype=FLOAT8)
