"""Phi-3 and Phi-4 (the dense ones of that architecture)."""

from __future__ import annotations

from dataclasses import replace

from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import DecoderConfig, TensorNames
from quire.models.llama import mistral


def phi3(config: CheckpointConfig) -> DecoderConfig:
    """Mistral, with projections stored fused, and LongRoPE for long contexts."""
    base = mistral(config)
    rope = base.layers[0].rope
    if rope.kind == "yarn":  # the first long checkpoints call LongRoPE so
        rope = replace(rope, kind="longrope")
    return replace(
        base,
        layers=tuple(replace(layer, rope=rope) for layer in base.layers),
        names=TensorNames(qkv=("qkv_proj",), gate_up=("gate_up_proj",)),
    )
