"""Gemma 1, 2 and 3. Of Gemma 3's models that also see, the text part."""

from __future__ import annotations

from dataclasses import replace

from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import SANDWICH, DecoderConfig, LayerConfig, TensorNames
from quire.models.llama import llama, sliding_layers
from quire.models.rope_config import RopeConfig, read_rope


def gemma(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with scaled embeddings, norms stored as weight - 1, GELU, and a tied head."""
    return replace(
        llama(config),
        norm_offset=1.0,
        embedding_scale=config["hidden_size"] ** 0.5,
        activation="gelu_tanh",  # also where the first checkpoints say "gelu"
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def gemma2(config: CheckpointConfig) -> DecoderConfig:
    """Gemma, with norms around each branch, capped scores and logits, and a window in every other layer."""
    config = config.with_defaults(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    base = gemma(config)
    rope = base.layers[0].rope
    slides = sliding_layers(config, lambda at: at % 2 == 0)
    return replace(
        base,
        norms=SANDWICH,
        attention_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
        attention_soft_cap=config.get("attn_logit_softcapping"),
        logit_soft_cap=config.get("final_logit_softcapping"),
        layers=tuple(LayerConfig(rope, config["sliding_window"] if flag else None) for flag in slides),
    )


def gemma3(config: CheckpointConfig) -> DecoderConfig:
    """Gemma 2, with normed heads of q and k, and five window layers, of their own rotary base, to each full one."""
    config = config.with_defaults(attn_logit_softcapping=None, final_logit_softcapping=None)
    base = gemma2(config)
    pattern = config.get("sliding_window_pattern", 6)
    local, full = _local_rope(config, base.head_dim), read_rope(config, base.head_dim, theta=1e6)
    layers = (
        LayerConfig(local, config["sliding_window"]) if slides else LayerConfig(full)
        for slides in sliding_layers(config, lambda at: (at + 1) % pattern != 0)
    )
    return replace(base, qk_norm="head", layers=tuple(layers))


def gemma3_with_vision(config: CheckpointConfig) -> DecoderConfig:
    """Gemma 3, as stored beside a vision tower, which is left out: text in, text out."""
    # These checkpoints leave out most of what is as in the first of them.
    text = config.part("text_config").with_defaults(
        vocab_size=262_208,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        max_position_embeddings=131_072,
    )
    names = TensorNames(
        model="language_model.model.",
        head="language_model.lm_head",
        ignored=("vision_tower.", "multi_modal_projector."),
    )
    return replace(gemma3(text), names=names)


def _local_rope(config: CheckpointConfig, head_dim: int) -> RopeConfig:
    if "sliding_attention" in config.get("rope_parameters", {}):
        return read_rope(config, head_dim, "sliding_attention")
    max_len = config["max_position_embeddings"]
    theta = config.get("rope_local_base_freq", 1e4)
    return RopeConfig(rotary_dim=head_dim, rope_theta=theta, max_len=max_len, original_max_len=max_len)
