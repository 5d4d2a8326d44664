"""Qwen 2, 2.5 and 3, dense and mixture-of-experts."""

from __future__ import annotations

from dataclasses import replace

from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import DecoderConfig, ExpertsConfig
from quire.models.llama import llama, slide, sliding_layers


def qwen2(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with a bias on q, k and v, and, where switched on, a window in the upper layers."""
    return replace(_with_windows(llama(config), config), qkv_bias=True, output_bias=False)


def qwen3(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with every head of q and k normed."""
    return replace(_with_windows(llama(config), config), qk_norm="head")


def qwen3_moe(config: CheckpointConfig) -> DecoderConfig:
    """Qwen 3, with experts in place of the MLP of most layers."""
    base = slide(replace(llama(config), qk_norm="head"), _window(config))
    dense, every = config.get("mlp_only_layers", ()), config.get("decoder_sparse_step", 1)
    sparse = (at not in dense and (at + 1) % every == 0 for at in range(len(base.layers)))
    experts = ExpertsConfig(
        num_experts=config.get("num_local_experts") or config["num_experts"],
        num_active=config["num_experts_per_tok"],
        intermediate_size=config["moe_intermediate_size"],
        renormalise=bool(config.get("norm_topk_prob", False)),
    )
    layers = (replace(layer, sparse=flag) for layer, flag in zip(base.layers, sparse, strict=True))
    return replace(base, layers=tuple(layers), experts=experts)


def _with_windows(base: DecoderConfig, config: CheckpointConfig) -> DecoderConfig:
    window = _window(config)
    slides = sliding_layers(config, lambda at: window is not None and at >= config.get("max_window_layers", 28))
    layers = (replace(layer, window=window if flag else None) for layer, flag in zip(base.layers, slides, strict=True))
    return replace(base, layers=tuple(layers))


def _window(config: CheckpointConfig) -> int | None:
    # Checkpoints give a width even where the window is switched off.
    window: int | None = config.get("sliding_window", 4096) if config.get("use_sliding_window", False) else None
    return window
