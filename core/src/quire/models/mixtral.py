"""Mixtral."""

from __future__ import annotations

from dataclasses import replace

from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import DecoderConfig, ExpertsConfig, TensorNames
from quire.models.llama import mistral

NAMES = TensorNames(
    router="block_sparse_moe.gate",
    experts="block_sparse_moe.experts.{expert}.{projection}",
    expert_projections=("w1", "w3", "w2"),
)


def mixtral(config: CheckpointConfig) -> DecoderConfig:
    """Mistral, with experts in place of every MLP (Jiang et al. 2024)."""
    base = mistral(config)
    experts = ExpertsConfig(
        num_experts=config["num_local_experts"],
        num_active=config["num_experts_per_tok"],
        intermediate_size=config["intermediate_size"],
        renormalise=True,
    )
    layers = tuple(replace(layer, sparse=True) for layer in base.layers)
    return replace(base, layers=layers, experts=experts, names=NAMES)
