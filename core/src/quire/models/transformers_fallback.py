"""Any decoder that transformers knows and Quire does not: its own modules, with attention over Quire's paged cache.

transformers lets an attention function be registered by name; models call it with a layer's query, key and value. Ours
hands each call to an object that sits on the calling module and knows its kernels and its layer (`LayerAttention`);
`transformers_probe` has found out beforehand what each layer asks for. Weights are read by transformers too, which
knows how older checkpoints are renamed and fused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import logging as transformers_logging

from quire.errors import ModelError
from quire.models.checkpoint import TensorSource, open_checkpoint
from quire.models.checkpoint_config import CheckpointConfig, eos_token_ids
from quire.models.context import Cache, ModelContext, Parameter, Source
from quire.models.spec import ModelSpec
from quire.models.transformers_probe import (
    HOOK,
    INTERFACE,
    AttentionCall,
    probe,
    read_transformers_config,
)
from quire.ops.spec import AttentionBatch


def read_spec(path: Path, config: CheckpointConfig, trust_remote_code: bool = False) -> ModelSpec:
    """Return the numbers of a model that only transformers knows. Raise ModelError if Quire cannot serve it."""
    hf_config = read_transformers_config(path, trust_remote_code)
    probed = probe(hf_config, trust_remote_code)
    first = probed.calls[0]
    return ModelSpec(
        architecture=config.architecture,
        num_layers=len(probed.calls),
        hidden_size=hf_config.hidden_size,
        intermediate_size=getattr(hf_config, "intermediate_size", None) or 4 * hf_config.hidden_size,
        num_heads=first.num_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.head_dim,
        vocab_size=hf_config.vocab_size,
        max_model_len=hf_config.max_position_embeddings,
        dtype=config.dtype,
        num_parameters=probed.num_parameters,
        windows=tuple(call.window for call in probed.calls),
        soft_cap=first.soft_cap,
        sinks=any(call.sinks for call in probed.calls),
        num_experts=config.get("num_experts") or config.get("num_local_experts") or 0,
        eos_token_ids=eos_token_ids(path, config),
    )


def build(path: Path, context: ModelContext, trust_remote_code: bool = False) -> TransformersModel:
    """Build the model of a folder, without its weights. Raise ModelError, KernelError."""
    config = read_transformers_config(path, trust_remote_code)
    calls = probe(config, trust_remote_code).calls
    # On the host, where memory that is never written costs nothing: buffers get their values, weights come later.
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation=INTERFACE, dtype=context.dtype, trust_remote_code=trust_remote_code
        ).eval()
    model.tie_weights()
    return TransformersModel(context, model, calls)


class CurrentStep:
    """Where the step that is being computed finds its caches and its batch. Set for the length of one forward pass."""

    caches: Sequence[Cache]
    batch: AttentionBatch


class LayerAttention:
    """One layer's attention over the paged cache; called by transformers' attention module."""

    def __init__(self, context: ModelContext, call: AttentionCall, layer: int, step: CurrentStep) -> None:
        self._layer = layer
        self._call = call
        self._step = step
        heads = {"num_kv_heads": call.num_kv_heads, "head_dim": call.head_dim, **context.cache_attributes()}
        self._write = context.bind("kv_write", **heads)
        asked = {"window": call.window, "soft_cap": call.soft_cap, "sinks": call.sinks}
        self._attend = context.bind("paged_attention", num_heads=call.num_heads, **heads, **asked)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kwargs: Mapping[str, Any]
    ) -> torch.Tensor:
        """Return `[1, T, Hq, D]` for heads-first `[1, heads, T, D]`. Mutates: the layer's cache."""
        batch, call = self._step.batch, self._call
        key_cache, value_cache = self._step.caches[self._layer]
        query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
        self._write(key, value, key_cache, value_cache, batch.slots)
        attended: torch.Tensor = self._attend(
            query, key_cache, value_cache, batch, call.scale, call.window, call.soft_cap, kwargs.get("s_aux")
        )
        return attended[None]


class TransformersModel:
    """A model of transformers as a `DecoderModel`: see there for its methods."""

    def __init__(self, context: ModelContext, model: PreTrainedModel, calls: Sequence[AttentionCall]) -> None:
        self._context = context
        self._model = model
        self._step = CurrentStep()
        self._head = _head_alone(model)
        for layer, call in enumerate(calls):
            setattr(model.get_submodule(call.module), HOOK, LayerAttention(context, call, layer, self._step))
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(context.device))

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """Return the further names of tied weights."""
        return tuple(name for _, names in self._weights() for name in names[1:])

    def parameters(self) -> Iterator[Parameter]:
        """Yield every weight once; a tied one is installed in all its places."""
        for weight, names in self._weights():
            yield Parameter(
                tuple(weight.shape),
                weight.dtype,
                (Source(names[0]),),
                self._context.allocate,
                partial(self._install, names),
                center=1.0 if weight.dim() == 1 and names[0].endswith("weight") else 0.0,
            )

    @contextmanager
    def open_weights(self, path: Path) -> Iterator[TensorSource]:
        """Let transformers read the folder's weights, and give them one by one."""
        with open_checkpoint(path):
            pass  # refuses pickles, missing shards and files that are cut off, before transformers begins
        yield _LoadedWeights(path, _read_weights(path, self._context.dtype))

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        caches: Sequence[Cache],
        batch: AttentionBatch,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return hidden states `[T, H]`, or `[S, H]` of the tokens that are wanted. Mutates: `caches`."""
        self._step.caches, self._step.batch = caches, batch
        out = self._model.base_model(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden if wanted is None else hidden[wanted]

    @property
    def logits_dtype(self) -> torch.dtype:
        """Return float32: heads differ in what they do after the product."""
        return torch.float32

    def raw_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits `[S, V]` of hidden states `[S, H]`."""
        return self.logits(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits `[S, V]` float32 of hidden states `[S, H]`."""
        logits: torch.Tensor = self._head(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return logits.float()

    def _weights(self) -> list[tuple[torch.Tensor, list[str]]]:
        """Return every weight and persistent buffer, with all its names."""
        places: dict[int, tuple[torch.Tensor, list[str]]] = {}
        for name, weight in self._model.state_dict(keep_vars=True).items():
            places.setdefault(id(weight), (weight, []))[1].append(name)
        return list(places.values())

    def _install(self, names: Sequence[str], weight: torch.Tensor) -> None:
        parameter = nn.Parameter(weight, requires_grad=False)
        for name in names:
            owner, _, leaf = name.rpartition(".")
            setattr(self._model.get_submodule(owner), leaf, parameter)


@dataclass
class _BodyOutput(BaseModelOutputWithPastAndCrossAttentions):  # type: ignore[misc]
    """What heads look for in their body's output, the router's part included."""

    router_logits: None = None


class _GivenHidden(nn.Module):  # type: ignore[misc]
    """Stands in for a model's body where its hidden states are known already."""

    @property
    def decoder(self) -> _GivenHidden:
        """Some heads call their body's decoder."""
        return self

    def forward(self, *args: Any, inputs_embeds: torch.Tensor, **kwargs: Any) -> _BodyOutput:
        return _BodyOutput(last_hidden_state=inputs_embeds)


def _head_alone(model: PreTrainedModel) -> PreTrainedModel:
    """Return a view of the model whose body is passed through: its head, with whatever it does to the logits.

    The modules of the head are shared with the model; the model itself is not changed.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _GivenHidden()}
    return head


class _LoadedWeights:
    """Weights by the names that the model itself has for them; each is given once, and then let go."""

    def __init__(self, path: Path, weights: dict[str, torch.Tensor]) -> None:
        self.path = path
        self._weights = weights
        self.names = frozenset(weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._weights[name].shape)

    def read(self, name: str) -> torch.Tensor:
        return self._weights.pop(name)


def _read_weights(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    with _without_bars():
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if problems:
        raise ModelError(f"{path} does not fit its config.json: {problems}")
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar, which it does where there is no terminal too."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
