"""Rotary position embedding as data: read from either spelling of config.json, computed in `rotary.py`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from quire.errors import ModelError
from quire.models.checkpoint_config import CheckpointConfig

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "none")
RENAMED = {"su": "longrope"}  # Phi-3's first checkpoints say "su"
IGNORED = ("rope_type", "type", "partial_rotary_factor", "original_max_position_embeddings", "finetuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """One set of rotary frequencies. Kind "none" rotates nothing (NoPE layers). Fields after `original_max_len` belong
    to single kinds and are named as in config.json."""

    kind: str = "default"
    rotary_dim: int
    rope_theta: float = 10000.0
    max_len: int  # max_position_embeddings
    original_max_len: int  # what the model was first trained on
    factor: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    @property
    def longest(self) -> int:
        """Return the longest context in tokens that these frequencies are made for."""
        if self.kind == "yarn":
            return max(self.max_len, round(self.original_max_len * (self.factor or 1)))
        if self.kind == "dynamic":
            return round(self.max_len * (self.factor or 1))
        return self.max_len


def read_rope(
    config: CheckpointConfig, head_dim: int, layer_type: str = "full_attention", theta: float = 1e4
) -> RopeConfig:
    """Read the frequencies of a model; of one layer type, where the config tells them apart.

    transformers 5 writes `rope_parameters`; before that it was `rope_theta` and `rope_scaling`. `theta` is what the
    architecture takes when none is given. Raise ModelError on a kind or a key that is not known.
    """
    given = _parameters(config, layer_type)
    scale = float(given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
    max_len = int(config["max_position_embeddings"])
    original = config.get("original_max_position_embeddings", given.get("original_max_position_embeddings", max_len))
    known = {field.name for field in fields(RopeConfig)}
    unknown = given.keys() - known - set(IGNORED)
    if unknown:
        raise ModelError(f"{config.where} has unknown rope settings {sorted(unknown)}; known are {sorted(known)}")
    settings = {"rope_theta": config.get("rope_theta", theta)}
    settings |= {key: _plain(value) for key, value in given.items() if key not in IGNORED and value is not None}
    return RopeConfig(
        kind=_kind(given, config.where),
        rotary_dim=int(head_dim * scale),
        max_len=max_len,
        original_max_len=int(original),
        **settings,
    )


def _parameters(config: CheckpointConfig, layer_type: str) -> Mapping[str, Any]:
    given: Mapping[str, Any] = config.get("rope_parameters", config.get("rope_scaling", {}))
    nested = given.get(layer_type)
    return nested if isinstance(nested, dict) else given


def _kind(given: Mapping[str, Any], where: str) -> str:
    kind = str(given.get("rope_type", given.get("type", "default")))
    kind = RENAMED.get(kind, kind)
    if kind not in KINDS:
        raise ModelError(f"{where} asks for rope type {kind!r}; supported are {', '.join(KINDS[:-1])}")
    return kind


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
