"""Llama 2 and 3 and what is built like them (Yi, SmolLM 1 and 2, Mistral, SmolLM 3): the base of every other recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from quire.errors import ModelError
from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import DecoderConfig, LayerConfig
from quire.models.rope_config import read_rope

Activation = Literal["silu", "gelu", "gelu_tanh"]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def llama(config: CheckpointConfig) -> DecoderConfig:
    """Pre-norm, RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023)."""
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // num_heads)
    bias = bool(config.get("attention_bias", False))
    return DecoderConfig(
        architecture=config.architecture,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads", num_heads),
        head_dim=head_dim,
        layers=(LayerConfig(read_rope(config, head_dim)),) * config["num_hidden_layers"],
        tied=bool(config.get("tie_word_embeddings", False)),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        activation=activation(config, config.get("hidden_act", "silu")),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        attention_scale=head_dim**-0.5,
    )


def mistral(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with a sliding window in every layer where the checkpoint says so."""
    return slide(replace(llama(config), qkv_bias=False, output_bias=False), config.get("sliding_window"))


def smollm3(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with no positions (NoPE) in every fourth layer."""
    base = llama(config)
    interval = config.get("no_rope_layer_interval", 4)
    rotated = config.get("no_rope_layers", [(at + 1) % interval != 0 for at in range(len(base.layers))])
    nope = replace(base.layers[0].rope, kind="none")
    windows = sliding_layers(config, lambda at: False)
    layers = (
        LayerConfig(base.layers[0].rope if rotates else nope, config["sliding_window"] if slides else None)
        for rotates, slides in zip(rotated, windows, strict=True)
    )
    return replace(base, layers=tuple(layers), tied=bool(config.get("tie_word_embeddings", True)))


def slide(decoder: DecoderConfig, window: int | None) -> DecoderConfig:
    """Give every layer the same window."""
    return replace(decoder, layers=tuple(replace(layer, window=window) for layer in decoder.layers))


def sliding_layers(config: CheckpointConfig, slides: Callable[[int], bool]) -> tuple[bool, ...]:
    """Return which layers have the window: as `layer_types` says, or else by the architecture's own rule."""
    types = config.get("layer_types")
    if types is None:
        return tuple(map(slides, range(config["num_hidden_layers"])))
    unknown = set(types) - {"sliding_attention", "full_attention"}
    if unknown:
        raise ModelError(f"{config.where} has layers of type {sorted(unknown)}; known are sliding and full attention")
    return tuple(kind == "sliding_attention" for kind in types)


def activation(config: CheckpointConfig, name: str) -> Activation:
    """Return the op's name of an activation. Raise ModelError on one that no op computes."""
    if name not in ACTIVATIONS:
        raise ModelError(f"{config.where} has activation {name!r}; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
