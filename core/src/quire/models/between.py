"""From one layer's attention to the next one's: in one op where a backend has it whole, otherwise layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quire.models.attention import Attention
from quire.models.context import Cache, ModelContext
from quire.models.layers import GATED, GatedMLP
from quire.ops.spec import AttentionBatch


def bind_between(context: ModelContext, attention: Attention, mlp: Any, following: Attention) -> Between | None:
    """Return the op for a layer of plain branches, `mlp` after `attention`; None where no backend's kernel serves it
    whole, or the layers have more than the op."""
    if not (isinstance(mlp, GatedMLP) and _is_plain(attention, mlp, following)):
        return None
    activation = GATED[mlp.activation]
    request = context.request(
        "between_attentions",
        **following.attributes(),
        hidden_size=attention.output.out_features,
        intermediate_size=mlp.down.in_features,
        activation=activation,
        bias=following.qkv.has_bias,
    )
    return Between(context.table.bind(request), attention, mlp, following) if context.table.serves(request) else None


def _is_plain(attention: Attention, mlp: GatedMLP, following: Attention) -> bool:
    products = (attention.output, mlp.gate_up, mlp.down, following.qkv)
    norms = (mlp.gate_up.norm, following.qkv.norm)
    return (
        not any(product.repacked for product in products)
        and not any(product.has_bias for product in products[:3])
        and all(norm is not None and not norm.offset for norm in norms)  # with an offset, weights are wider
        and not following.norms_whole
    )


class Between:
    """The op, with the layers whose weights it takes once they are installed."""

    def __init__(self, op: Callable[..., Any], attention: Attention, mlp: GatedMLP, following: Attention) -> None:
        self._op = op
        self._output = attention.output
        self._mlp = mlp
        self._following = following

    def __call__(
        self,
        attended: torch.Tensor,
        residual: torch.Tensor,
        positions: torch.Tensor,
        cache: Cache,
        batch: AttentionBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next layer's query `[T, Hq, D]`, and the residual stream `[T, H]`. Mutates: `cache`."""
        mlp, following = self._mlp, self._following
        assert mlp.gate_up.norm is not None
        assert following.qkv.norm is not None
        return self._op(  # type: ignore[no-any-return]
            attended, residual, self._output.weight, mlp.gate_up.norm.weight, mlp.gate_up.weight, mlp.down.weight,
            GATED[mlp.activation], following.qkv.norm.weight, following.qkv.weight, following.qkv.bias, following.eps,
            positions, following.cos_sin, *following.head_norms(), *cache, batch.slots,
        )  # fmt: skip
