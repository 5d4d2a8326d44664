"""Attention over the paged cache: project, norm, rotate and write, attend, project back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from quire.models.context import Cache, ModelContext, Parameter
from quire.models.decoder_config import DecoderConfig, LayerConfig
from quire.models.layers import Linear, NormLinear, RMSNorm, Stream
from quire.ops.spec import AttentionBatch


class Attention:
    """Grouped-query attention of one layer, of the stream's `norm`. `cos_sin` is the rotary table `[P, rotary_dim]`;
    `prefix` a checkpoint name such as "model.layers.3.self_attn."."""

    def __init__(
        self,
        context: ModelContext,
        config: DecoderConfig,
        layer: LayerConfig,
        norm: RMSNorm | None,
        prefix: str,
        cos_sin: torch.Tensor,
    ) -> None:
        self._layer = layer
        self._scale = config.attention_scale
        self._soft_cap = config.attention_soft_cap
        self.cos_sin = cos_sin
        self.eps = config.norm_eps
        self._widths = [config.num_heads * config.head_dim] + 2 * [config.num_kv_heads * config.head_dim]
        parts = _qkv_parts(config, prefix, self._widths)
        self.qkv = NormLinear(context, norm, parts, config.hidden_size, config.qkv_bias)
        self.output = Linear(context, [(f"{prefix}o_proj", config.hidden_size)], self._widths[0], config.output_bias)
        self._per_head = config.qk_norm == "head"
        self._q_norm, self._k_norm = _qk_norms(context, config, prefix, self._widths)
        self._heads = {
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            **context.cache_attributes(),
        }
        self._write = context.bind("qkv_rope_write", **self.attributes())
        self._attend = context.bind(
            "paged_attention", **self._heads, window=layer.window, soft_cap=config.attention_soft_cap, sinks=False
        )

    def attributes(self) -> dict[str, Any]:
        """Return what a request for the op says that writes this layer's keys and values."""
        return {**self._heads, "rotary_dim": self._layer.rope.rotary_dim, "qk_norm": self._per_head}

    @property
    def norms_whole(self) -> bool:
        """Return whether queries and keys are normed over all heads."""
        return self._q_norm is not None and not self._per_head

    def parameters(self) -> Iterator[Parameter]:
        yield from self.qkv.parameters()
        for norm in (self._q_norm, self._k_norm):
            if norm is not None:
                yield from norm.parameters()
        yield from self.output.parameters()

    def enter(
        self, stream: Stream, positions: torch.Tensor, cache: Cache, batch: AttentionBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values; return the queries `[T, Hq, D]`, and the new residual. Mutates: `cache`."""
        projected, residual = self.qkv.enter(stream)
        qkv = self._norm_whole(projected)
        query = self._write(qkv, positions, self.cos_sin, *self.head_norms(), self.eps, *cache, batch.slots)
        return query, residual

    def attend(self, query: torch.Tensor, cache: Cache, batch: AttentionBatch) -> torch.Tensor:
        """Return what the queries see `[T, Hq * D]`, not yet projected."""
        attended: torch.Tensor = self._attend(
            query, *cache, batch, self._scale, self._layer.window, self._soft_cap, None
        )
        return attended.flatten(1)

    def head_norms(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the weights of the norms of each head of query and key, if there are any."""
        if self._per_head and self._q_norm is not None and self._k_norm is not None:
            return self._q_norm.weight, self._k_norm.weight
        return None, None

    def _norm_whole(self, qkv: torch.Tensor) -> torch.Tensor:
        if self._per_head or self._q_norm is None or self._k_norm is None:
            return qkv
        query, key, value = qkv.split(self._widths, dim=-1)
        return torch.cat([self._q_norm(query), self._k_norm(key), value], dim=-1)


def _qkv_parts(config: DecoderConfig, prefix: str, widths: list[int]) -> list[tuple[str, int]]:
    names = [f"{prefix}{name}" for name in config.names.qkv]
    return [(names[0], sum(widths))] if len(names) == 1 else list(zip(names, widths, strict=True))


def _qk_norms(
    context: ModelContext, config: DecoderConfig, prefix: str, widths: list[int]
) -> tuple[RMSNorm | None, RMSNorm | None]:
    if config.qk_norm is None:
        return None, None
    sizes = (config.head_dim, config.head_dim) if config.qk_norm == "head" else (widths[0], widths[1])
    q_norm, k_norm = (
        RMSNorm(context, f"{prefix}{name}.weight", size, config.norm_eps, config.norm_offset)
        for name, size in zip(("q_norm", "k_norm"), sizes, strict=True)
    )
    return q_norm, k_norm
