"""Rotary position embedding (Su et al. 2021): tables of cosines and sines, for every way of stretching the context.

Frequencies depend on the longest sequence served (`max_model_len`), never on the sequence at hand: keys stay in the
cache as they were rotated, and a prompt computed in chunks, or beside a longer one, must give the same numbers. So
dynamic NTK and LongRoPE use their long-context frequencies whenever `max_model_len` is beyond the original length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from quire.errors import ModelError
from quire.models.context import ModelContext
from quire.models.rope_config import RopeConfig


class Frequencies(NamedTuple):
    """Angles per position `inv_freq` [rotary_dim / 2] float32, and a factor on cosines and sines."""

    inv_freq: torch.Tensor
    factor: float = 1.0


def make_table(context: ModelContext, rope: RopeConfig) -> torch.Tensor:
    """Return `cos_sin` [max_model_len, rotary_dim] float32: for each position its cosines, then its sines."""
    length = context.max_model_len or rope.longest
    table = context.allocate((length, rope.rotary_dim), torch.float32)
    if table.is_meta:  # sized, not computed: millions of cosines would be for nothing
        return table
    found = frequencies(rope, length)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * found.inv_freq
    table.copy_(torch.cat([angles.cos(), angles.sin()], dim=-1) * found.factor)
    return table


def frequencies(rope: RopeConfig, max_model_len: int) -> Frequencies:
    """Return the frequencies to serve sequences of up to `max_model_len` tokens with."""
    if rope.kind == "none":
        return Frequencies(torch.zeros(rope.rotary_dim // 2))
    if rope.kind == "linear":
        return Frequencies(_plain(rope, rope.rope_theta) / _required(rope.factor, "factor"))
    if rope.kind == "dynamic":
        return Frequencies(_plain(rope, _ntk_theta(rope, max_model_len)))
    if rope.kind == "llama3":
        return Frequencies(_llama3(rope))
    if rope.kind == "yarn":
        return _yarn(rope)
    if rope.kind == "longrope":
        return _longrope(rope, max_model_len)
    return Frequencies(_plain(rope, rope.rope_theta))


def _plain(rope: RopeConfig, theta: float) -> torch.Tensor:
    return 1.0 / theta ** (torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim)


def _ntk_theta(rope: RopeConfig, max_model_len: int) -> float:
    """Dynamic NTK: the base grows with the length beyond the original (u/emozilla 2023)."""
    factor, dim = _required(rope.factor, "factor"), rope.rotary_dim
    length = max(max_model_len, rope.max_len)
    return float(rope.rope_theta * (factor * length / rope.max_len - (factor - 1)) ** (dim / (dim - 2)))


def _llama3(rope: RopeConfig) -> torch.Tensor:
    """Llama 3.1: divide the low frequencies by the factor, keep the high ones, blend between."""
    inv_freq, factor = _plain(rope, rope.rope_theta), _required(rope.factor, "factor")
    turns = rope.original_max_len * inv_freq / (2 * math.pi)  # in the original context
    low, high = rope.low_freq_factor, rope.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - keep) * inv_freq / factor + keep * inv_freq


def _yarn(rope: RopeConfig) -> Frequencies:
    """YaRN (Peng et al. 2023): stretch slow dimensions, keep fast ones, and sharpen attention."""
    factor = rope.factor or rope.max_len / rope.original_max_len
    fast, slow = _yarn_bounds(rope)
    ramp = (torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - fast) / max(slow - fast, 0.001)
    stretch = ramp.clamp(0, 1)
    inv_freq = _plain(rope, rope.rope_theta)
    return Frequencies(inv_freq / factor * stretch + inv_freq * (1 - stretch), _yarn_attention(rope, factor))


def _yarn_bounds(rope: RopeConfig) -> tuple[float, float]:
    """Return the dimensions that make `beta_fast` and `beta_slow` turns in the original context."""

    def dimension(turns: float) -> float:
        per_turn = math.log(rope.original_max_len / (turns * 2 * math.pi))
        return rope.rotary_dim * per_turn / (2 * math.log(rope.rope_theta))

    fast, slow = dimension(rope.beta_fast or 32), dimension(rope.beta_slow or 1)
    if rope.truncate:
        fast, slow = math.floor(fast), math.ceil(slow)
    return max(fast, 0), min(slow, rope.rotary_dim - 1)


def _yarn_attention(rope: RopeConfig, factor: float) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def _longrope(rope: RopeConfig, max_model_len: int) -> Frequencies:
    """LongRoPE (Ding et al. 2024): a searched stretch per dimension, one set for short and one for long contexts."""
    long = max_model_len > rope.original_max_len
    stretch = torch.tensor(rope.long_factor if long else rope.short_factor, dtype=torch.float32)
    if len(stretch) != rope.rotary_dim // 2:
        raise ModelError(f"longrope needs {rope.rotary_dim // 2} factors, one per frequency; got {len(stretch)}")
    factor = rope.factor or rope.max_len / rope.original_max_len
    attention = rope.attention_factor
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(rope.original_max_len)) if factor > 1 else 1.0
    return Frequencies(_plain(rope, rope.rope_theta) / stretch, attention)


def _required(value: float | None, name: str) -> float:
    if value is None:
        raise ModelError(f"the rope settings in config.json need {name!r}")
    return value
