"""OLMo 2 and 3."""

from __future__ import annotations

from dataclasses import replace

from quire.models.checkpoint_config import CheckpointConfig
from quire.models.decoder_config import POST, DecoderConfig, LayerConfig
from quire.models.llama import llama, sliding_layers
from quire.models.rope_config import read_rope


def olmo2(config: CheckpointConfig) -> DecoderConfig:
    """Llama, with each branch normed after instead of before, and the whole of q and k normed."""
    return replace(llama(config), norms=POST, qk_norm="whole", norm_eps=config.get("rms_norm_eps", 1e-5))


def olmo3(config: CheckpointConfig) -> DecoderConfig:
    """OLMo 2, with a window, and unscaled rotary positions, in three of four layers."""
    base = olmo2(config)
    full = read_rope(config, base.head_dim, theta=5e5)
    nested = "sliding_attention" in config.get("rope_parameters", {})
    local = read_rope(config, base.head_dim, "sliding_attention") if nested else replace(full, kind="default")
    layers = (
        LayerConfig(local, config.get("sliding_window", 4096)) if slides else LayerConfig(full)
        for slides in sliding_layers(config, lambda at: (at + 1) % 4 != 0)
    )
    return replace(base, layers=tuple(layers))
