"""Attention over the paged cache: project, norm, rotate and write, attend, project back."""

from __future__ import annotations

from collections.abc import Iterator

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
        self._cos_sin = cos_sin
        self._eps = config.norm_eps
        self._widths = [config.num_heads * config.head_dim] + 2 * [config.num_kv_heads * config.head_dim]
        parts = _qkv_parts(config, prefix, self._widths)
        self._qkv = NormLinear(context, norm, parts, config.hidden_size, config.qkv_bias)
        self._output = Linear(context, [(f"{prefix}o_proj", config.hidden_size)], self._widths[0], config.output_bias)
        self._per_head = config.qk_norm == "head"
        self._q_norm, self._k_norm = _qk_norms(context, config, prefix, self._widths)
        heads = {
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            **context.cache_attributes(),
        }
        self._write = context.bind(
            "qkv_rope_write",
            **heads,
            rotary_dim=layer.rope.rotary_dim,
            qk_norm=self._per_head,
        )
        self._attend = context.bind(
            "paged_attention", **heads, window=layer.window, soft_cap=config.attention_soft_cap, sinks=False
        )

    def parameters(self) -> Iterator[Parameter]:
        yield from self._qkv.parameters()
        for norm in (self._q_norm, self._k_norm):
            if norm is not None:
                yield from norm.parameters()
        yield from self._output.parameters()

    def __call__(
        self,
        stream: Stream,
        positions: torch.Tensor,
        cache: Cache,
        batch: AttentionBatch,
        wanted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[T, H]`, and the new residual; those of the tokens `wanted` `[S]` if given. Mutates: `cache`."""
        query, residual = self.fill(stream, positions, cache, batch)
        attended = self._attend(query, *cache, batch, self._scale, self._layer.window, self._soft_cap, None).flatten(1)
        if wanted is not None:
            attended, residual = attended[wanted], residual[wanted]
        return self._output(attended), residual

    def fill(
        self, stream: Stream, positions: torch.Tensor, cache: Cache, batch: AttentionBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values; return the queries `[T, Hq, D]`, and the new residual. Mutates: `cache`."""
        projected, residual = self._qkv.enter(stream)
        qkv = self._norm_whole(projected)
        q_weight, k_weight = self._head_norm_weights()
        query = self._write(qkv, positions, self._cos_sin, q_weight, k_weight, self._eps, *cache, batch.slots)
        return query, residual

    def _head_norm_weights(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
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
