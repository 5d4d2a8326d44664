"""Granite 3 (dense)."""

from __future__ import annotations

from dataclasses import replace

from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import DecoderConfig
from quire.models.llama import llama


def granite(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with a multiplier on embeddings, attention scores, branches and logits."""
    return replace(
        llama(config),
        embedding_scale=config.get("embedding_multiplier", 1.0),
        attention_scale=config.get("attention_multiplier", 1.0),
        residual_scale=config.get("residual_multiplier", 1.0),
        logit_scale=1.0 / config.get("logits_scaling", 1.0),
    )
