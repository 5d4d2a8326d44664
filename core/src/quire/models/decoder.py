"""Decoder: a `DecoderConfig` made runnable.

The residual stream is carried as a sum not yet taken, `residual + x`, so that each addition is done by the branch that
follows it, with its norm and first projection (`norm_linear`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

from quire.models.attention import Attention
from quire.models.between import Between, bind_between
from quire.models.checkpoint import TensorSource, open_checkpoint
from quire.models.context import Cache, ModelContext, Parameter
from quire.models.decoder_config import DecoderConfig, LayerConfig
from quire.models.kv_scales import fold_kv_scales
from quire.models.layers import Embedding, GatedMLP, LogitsHead, RMSNorm, Stream, enter
from quire.models.moe import MixtureOfExperts
from quire.models.rope_config import RopeConfig
from quire.models.rotary import make_table
from quire.ops.spec import AttentionBatch


class Decoder:
    """A native decoder. See `DecoderModel` for its methods."""

    def __init__(self, context: ModelContext, config: DecoderConfig) -> None:
        self.config = config
        self._kv_dtype = context.kv_dtype or context.dtype
        names, hidden_size = config.names, config.hidden_size
        self._head = LogitsHead(
            context, names.head, config.vocab_size, hidden_size, config.logit_scale, config.logit_soft_cap, config.tied
        )
        self._embedding = Embedding(
            context,
            f"{names.model}embed_tokens.weight",
            config.vocab_size,
            hidden_size,
            config.embedding_scale,
            share=self._head.linear.install if config.tied else None,
        )
        tables: dict[RopeConfig, torch.Tensor] = {}
        for layer in config.layers:
            if layer.rope not in tables:
                tables[layer.rope] = make_table(context, layer.rope)
        self._layers = [
            DecoderLayer(context, config, layer, f"{names.model}layers.{at}.", tables[layer.rope])
            for at, layer in enumerate(config.layers)
        ]
        for one, following in pairwise(self._layers):
            one.join(following)
        self._norm = RMSNorm(context, f"{names.model}norm.weight", hidden_size, config.norm_eps, config.norm_offset)

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """Return parts of names of tensors that are not loaded: a tied head's copy of the embedding, among others."""
        names = self.config.names
        return (*names.ignored, names.head) if self.config.tied else names.ignored

    @contextmanager
    def open_weights(self, path: Path) -> Iterator[TensorSource]:
        """Open the folder's safetensors files."""
        with (
            open_checkpoint(path, body=self.config.names.model) as checkpoint,
            fold_kv_scales(checkpoint, self.config, self._kv_dtype) as folded,
        ):
            yield folded

    def parameters(self) -> Iterator[Parameter]:
        """Yield every weight once, in the order of the layers."""
        yield from self._embedding.parameters()
        for layer in self._layers:
            yield from layer.parameters()
        yield from self._norm.parameters()
        if not self.config.tied:
            yield from self._head.linear.parameters()

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        caches: Sequence[Cache],
        batch: AttentionBatch,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return hidden states `[T, H]` after the last norm, or `[S, H]` of the tokens that are wanted: of the others
        the last layer computes nothing after its attention, and where none is wanted, keys and values alone. Mutates:
        `caches`."""
        first, last = self._layers[0], self._layers[-1]
        query, residual = first.enter((self._embedding(input_ids), None), positions, caches[0], batch)
        for (layer, cache), (following, next_cache) in pairwise(zip(self._layers, caches, strict=True)):
            attended = layer.attend(query, cache, batch)
            query, residual = layer.pass_on(attended, residual, following, positions, next_cache, batch)
        if wanted is not None and not len(wanted):
            return residual[:0]
        attended = last.attend(query, caches[-1], batch)
        if wanted is not None:
            attended, residual = attended[wanted], residual[wanted]
        return enter(last.leave(attended, residual), self._norm)[0]

    @property
    def logits_dtype(self) -> torch.dtype:
        """Return the dtype of `raw_logits`."""
        return self._head.dtype

    def raw_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits `[S, V]` of hidden states `[S, H]`, float32 if they are scaled or capped."""
        return self._head(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the same logits in float32."""
        return self._head(hidden).float()


class DecoderLayer:
    """Attention, then MLP or experts, each with the norms that the family has."""

    def __init__(
        self, context: ModelContext, config: DecoderConfig, layer: LayerConfig, prefix: str, cos_sin: torch.Tensor
    ) -> None:
        def norm(name: str | None) -> RMSNorm | None:
            if name is None:
                return None
            return RMSNorm(context, f"{prefix}{name}.weight", config.hidden_size, config.norm_eps, config.norm_offset)

        norms = config.norms
        self._before_attention, self._after_attention = norm(norms.before_attention), norm(norms.after_attention)
        self._before_mlp, self._after_mlp = norm(norms.before_mlp), norm(norms.after_mlp)
        self._attention = Attention(context, config, layer, self._before_attention, f"{prefix}self_attn.", cos_sin)
        self._mlp = _feed_forward(context, config, layer, self._before_mlp, prefix)
        self._scale = config.residual_scale
        self._context = context
        self._between: Between | None = None

    def parameters(self) -> Iterator[Parameter]:
        parts = (
            self._before_attention,
            self._attention,
            self._after_attention,
            self._before_mlp,
            self._mlp,
            self._after_mlp,
        )
        for part in parts:
            if part is not None:
                yield from part.parameters()

    def join(self, following: DecoderLayer) -> None:
        """Take the way to the next layer that this backend offers."""
        if (self._after_attention, self._after_mlp, self._scale) == (None, None, 1.0):
            self._between = bind_between(self._context, self._attention, self._mlp, following._attention)

    def enter(
        self, stream: Stream, positions: torch.Tensor, cache: Cache, batch: AttentionBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values; return the queries `[T, Hq, D]`, and the new residual. Mutates: `cache`."""
        return self._attention.enter(stream, positions, cache, batch)

    def attend(self, query: torch.Tensor, cache: Cache, batch: AttentionBatch) -> torch.Tensor:
        """Return what the queries see, `[T, Hq * D]`."""
        return self._attention.attend(query, cache, batch)

    def leave(self, attended: torch.Tensor, residual: torch.Tensor) -> Stream:
        """Return the stream after this layer, of what was attended to."""
        projected = self._end_branch(self._attention.output(attended), self._after_attention)
        x, residual = self._mlp((projected, residual))
        return self._end_branch(x, self._after_mlp), residual

    def pass_on(
        self,
        attended: torch.Tensor,
        residual: torch.Tensor,
        following: DecoderLayer,
        positions: torch.Tensor,
        cache: Cache,
        batch: AttentionBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave this layer and enter the following one, whose `cache` is mutated."""
        if self._between is not None:
            return self._between(attended, residual, positions, cache, batch)
        return following.enter(self.leave(attended, residual), positions, cache, batch)

    def _end_branch(self, x: torch.Tensor, norm: RMSNorm | None) -> torch.Tensor:
        x = x if norm is None else norm(x)
        return x if self._scale == 1.0 else x * self._scale


def _feed_forward(
    context: ModelContext, config: DecoderConfig, layer: LayerConfig, norm: RMSNorm | None, prefix: str
) -> GatedMLP | MixtureOfExperts:
    if layer.sparse and config.experts is not None:
        return MixtureOfExperts(context, config, config.experts, norm, prefix)
    return GatedMLP(
        context,
        norm,
        [f"{prefix}mlp.{name}" for name in config.names.gate_up],
        f"{prefix}mlp.down_proj",
        config.hidden_size,
        config.intermediate_size,
        config.activation,
        config.mlp_bias,
    )
