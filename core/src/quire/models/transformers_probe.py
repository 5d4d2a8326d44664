"""What a transformers model asks of attention: found by running it on the meta device, which costs no memory.

A model that Quire would serve wrongly is refused here: one that keeps state beside keys and values, attends in chunks
or not causally, adds a mask or a bias of its own, or calls attention other than once in each layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from quire.errors import ModelError

INTERFACE = "quire"
"""The name of Quire's attention in transformers' register."""

HOOK = "quire_attention"
"""The attribute of an attention module that its call is handed to."""

KNOWN_TENSORS = {"position_ids", "cache_position", "s_aux"}
LAYER_TYPES = {"full_attention", "sliding_attention"}
LENGTH_BOUND_ROPES = {"dynamic", "longrope"}


class AttentionCall(NamedTuple):
    """One layer's attention: the module that calls it, and what it asks for."""

    module: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    soft_cap: float | None
    sinks: bool


class Probed(NamedTuple):
    """A model's attention, layer by layer, and its number of weights, tied ones once."""

    calls: tuple[AttentionCall, ...]
    num_parameters: int


def read_transformers_config(path: Path, trust_remote_code: bool) -> PretrainedConfig:
    """Read the folder's config as transformers does. Raise ModelError if it knows no causal language model of it."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(f"{path / 'config.json'} is not understood by transformers: {_first_line(error)}") from error
    remote = trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if type(config) not in AutoModelForCausalLM._model_mapping and not remote:
        raise ModelError(f"{path} is a {config.model_type}, which transformers has no causal language model for")
    _refuse_config(config, path)
    config.pad_token_id = None  # with one, some models look for it among the ids, and wait for the device to answer
    return config


def probe(config: PretrainedConfig, trust_remote_code: bool = False) -> Probed:
    """Run the model on the meta device and return what it asked of attention. Raise ModelError if that cannot be
    served."""
    calls: list[AttentionCall] = []
    register_attention()
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=INTERFACE, dtype=torch.bfloat16, trust_remote_code=trust_remote_code
            ).eval()
            for name, module in model.named_modules():
                setattr(module, HOOK, partial(_record, calls, name, module))
            ids = torch.zeros(1, 2, dtype=torch.long)
            model.base_model(input_ids=ids, position_ids=ids, use_cache=False)
    except ModelError:
        raise
    except Exception as error:  # a model may fail in any way; the cause is kept
        raise ModelError(f"{_name(config)} does not run with an attention of Quire's: {_first_line(error)}") from error
    _refuse_model(model, calls)
    return Probed(tuple(calls), model.num_parameters())


def register_attention() -> None:
    """Make Quire's attention known to transformers by name. Calls go to the hook that sits on the calling module."""
    AttentionInterface.register(INTERFACE, _attend)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if attention_mask is not None:
        raise ModelError(f"{type(module).__name__} attends with a mask of its own, which Quire cannot serve")
    return getattr(module, HOOK)(query, key, value, kwargs), None


def _record(
    calls: list[AttentionCall],
    name: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kwargs: Mapping[str, Any],
) -> torch.Tensor:
    if key.shape != value.shape or query.shape[-1] != key.shape[-1]:
        raise ModelError(f"{name}: query, key and value have heads of different sizes, which Quire cannot serve")
    causal = kwargs.get("is_causal", getattr(module, "is_causal", True))
    tensors = {key for key, argument in kwargs.items() if isinstance(argument, torch.Tensor)} - KNOWN_TENSORS
    if causal is False or tensors:
        raise ModelError(f"{name}: attention is not plainly causal ({sorted(tensors) or 'it looks ahead'})")
    calls.append(
        AttentionCall(
            name,
            query.shape[1],
            key.shape[1],
            query.shape[3],
            scale=_scale(kwargs, query.shape[3]),
            window=kwargs.get("sliding_window"),
            soft_cap=kwargs.get("softcap"),
            sinks=kwargs.get("s_aux") is not None,
        )
    )
    return query.transpose(1, 2)


def _scale(kwargs: Mapping[str, Any], head_dim: int) -> float:
    scale = kwargs.get("scaling")
    return head_dim**-0.5 if scale is None else float(scale)


def _refuse_config(config: PretrainedConfig, path: Path) -> None:
    strange = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if strange:
        raise ModelError(f"{path} has layers of type {sorted(strange)}; supported are {sorted(LAYER_TYPES)}")
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {str(rope.get("rope_type")) for rope in (ropes, *ropes.values()) if isinstance(rope, dict)}
    bound = sorted(kinds & LENGTH_BOUND_ROPES)
    if bound:
        raise ModelError(
            f"{path} has rope type {', '.join(bound)}: in transformers its frequencies change with the longest "
            "sequence of a batch, so that a request would depend on its neighbours"
        )


def _refuse_model(model: PreTrainedModel, calls: list[AttentionCall]) -> None:
    name, num_layers = _name(model.config), model.config.num_hidden_layers
    if getattr(model, "_is_stateful", False):
        raise ModelError(f"{name} keeps a recurrent state, which Quire cannot serve")
    per_module = Counter(call.module for call in calls)
    if len(per_module) != num_layers or max(per_module.values(), default=0) != 1:
        raise ModelError(
            f"{name} called attention {len(calls)} times in {num_layers} layers; Quire serves models that call it once "
            "in each layer, through transformers' attention interface"
        )
    if len({(call.num_heads, call.num_kv_heads, call.head_dim, call.soft_cap) for call in calls}) > 1:
        raise ModelError(f"{name} has layers with different heads or soft caps, which Quire cannot serve")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _name(config: PretrainedConfig) -> str:
    return str((config.architectures or [type(config).__name__])[0])
