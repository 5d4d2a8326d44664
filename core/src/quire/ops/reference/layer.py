"""All that stands between the attentions of two layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from quire.ops.reference.cache import qkv_rope_write
from quire.ops.reference.dense import linear, norm_linear


def between_attentions(
    attended: torch.Tensor,
    residual: torch.Tensor,
    output_weight: torch.Tensor,
    mlp_norm: torch.Tensor,
    gate_up_weight: torch.Tensor,
    down_weight: torch.Tensor,
    activation: str,
    attention_norm: torch.Tensor,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor | None,
    eps: float,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next layer's query [T, Hq, D], and the residual stream [T, H]. `eps` is that of every norm.

    Mutates key_cache, value_cache, those of the next layer.
    """
    steps = BetweenAttentions(linear, norm_linear, linear, norm_linear, qkv_rope_write)
    return steps.run(
        attended, residual, output_weight, mlp_norm, gate_up_weight, down_weight, activation, attention_norm,
        qkv_weight, qkv_bias, eps, positions, cos_sin, q_norm, k_norm, key_cache, value_cache, slots,
    )  # fmt: skip


class BetweenAttentions(NamedTuple):
    """The op in five steps; a backend that serves it whole for some sizes serves the others with its own steps."""

    output: Callable[..., Any]
    gate_up: Callable[..., Any]
    down: Callable[..., Any]
    qkv: Callable[..., Any]
    write: Callable[..., Any]

    def run(
        self,
        attended: torch.Tensor,
        residual: torch.Tensor,
        output_weight: torch.Tensor,
        mlp_norm: torch.Tensor,
        gate_up_weight: torch.Tensor,
        down_weight: torch.Tensor,
        activation: str,
        attention_norm: torch.Tensor,
        qkv_weight: torch.Tensor,
        qkv_bias: torch.Tensor | None,
        eps: float,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the steps; see the op."""
        x = self.output(attended, output_weight, None)
        hidden, residual = self.gate_up(x, residual, mlp_norm, eps, gate_up_weight, None, activation)
        x = self.down(hidden, down_weight, None)
        qkv, residual = self.qkv(x, residual, attention_norm, eps, qkv_weight, qkv_bias, None)
        query = self.write(qkv, positions, cos_sin, q_norm, k_norm, eps, key_cache, value_cache, slots)
        return query, residual
