"""DecoderConfig: one description that every native architecture is a few changed fields of. No torch.

A decoder is: embed, then per layer attention and a feed-forward branch, each added to the residual stream, then a norm
and the logits head. What varies between families is data here; the recipes (`llama.py`, `gemma.py`, …) fill it in, and
`decoder.py` builds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from quire.models.rope_config import RopeConfig


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What may differ from layer to layer. `window` w: a token sees the last w keys, its own included."""

    rope: RopeConfig
    window: int | None = None
    sparse: bool = False  # experts instead of one MLP


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A mixture of SwiGLU experts; router probabilities are a float32 softmax over all experts."""

    num_experts: int
    num_active: int  # experts per token
    intermediate_size: int
    renormalise: bool  # the chosen experts' weights are scaled to sum to 1


@dataclass(frozen=True, slots=True)
class NormNames:
    """Where a layer norms, by the name of the norm's weight in the checkpoint; None: it does not."""

    before_attention: str | None = None
    after_attention: str | None = None
    before_mlp: str | None = None
    after_mlp: str | None = None

    def __len__(self) -> int:
        names = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return sum(name is not None for name in names)


PRE = NormNames(before_attention="input_layernorm", before_mlp="post_attention_layernorm")
POST = NormNames(after_attention="post_attention_layernorm", after_mlp="post_feedforward_layernorm")
SANDWICH = NormNames(
    before_attention="input_layernorm",
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Names of checkpoint tensors, where families differ. `experts` has places for expert and projection."""

    model: str = "model."  # before everything but the head
    head: str = "lm_head"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    router: str = "mlp.gate"
    experts: str = "mlp.experts.{expert}.{projection}"
    expert_projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)  # tensors whose name holds one of these are passed over


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer. Defaults are Llama's."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerConfig, ...]
    tied: bool  # the head's weight is the embedding's

    norms: NormNames = PRE
    norm_eps: float = 1e-6
    norm_offset: float = 0.0  # the checkpoint holds weight - offset
    qk_norm: Literal["head", "whole"] | None = None  # q and k are normed head by head, or over all heads
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False

    attention_scale: float
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # on each branch, before it is added
    logit_scale: float = 1.0

    experts: ExpertsConfig | None = None
    names: TensorNames = field(default_factory=TensorNames)

    @property
    def max_model_len(self) -> int:
        """Return the longest context in tokens, set by the rotary frequencies that reach least far."""
        return min(layer.rope.longest for layer in self.layers)

    def count_parameters(self) -> int:
        """Return the number of weights, tied ones once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        layers = sum(self._layer_parameters(layer.sparse) for layer in self.layers)
        return embeddings + layers + self.hidden_size

    def _layer_parameters(self, sparse: bool) -> int:
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (q + 2 * kv) + q * self.hidden_size
        attention += self.qkv_bias * (q + 2 * kv) + self.output_bias * self.hidden_size
        qk_norm = {None: 0, "head": 2 * self.head_dim, "whole": q + kv}[self.qk_norm]
        return attention + qk_norm + len(self.norms) * self.hidden_size + self._branch_parameters(sparse)

    def _branch_parameters(self, sparse: bool) -> int:
        if sparse and self.experts:
            one = 3 * self.hidden_size * self.experts.intermediate_size
            return self.experts.num_experts * (one + self.hidden_size)
        dense = 3 * self.hidden_size * self.intermediate_size
        return dense + self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
