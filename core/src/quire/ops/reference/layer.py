"""All that stands between the attentions of two layers."""

from __future__ import annotations

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
    x = linear(attended, output_weight)
    hidden, residual = norm_linear(x, residual, mlp_norm, eps, gate_up_weight, None, activation)
    x = linear(hidden, down_weight)
    qkv, residual = norm_linear(x, residual, attention_norm, eps, qkv_weight, qkv_bias, None)
    query = qkv_rope_write(qkv, positions, cos_sin, q_norm, k_norm, eps, key_cache, value_cache, slots)
    return query, residual
