"""Tiny models with seeded random weights, made on the spot: no download, no transformers.

Weights are large enough that tokens depend on everything that came before, and that no two logits are close.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

VOCAB_SIZE = 211
NAN_TOKEN = 7
"""In the model "poisoned" this token's hidden state overflows to infinity: its row, and no other, is not finite."""

BASE: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "windowed": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 9},
    "poisoned": {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "embedding_multiplier": 4.0},
}


def write_checkpoint(folder: Path, model: str) -> Path:
    """Write one of MODELS to `folder/model`, unless it is there, and return that."""
    path = folder / model
    if not path.exists():
        config = {**BASE, **MODELS[model]}
        weights = make_weights(config)
        if model == "poisoned":
            weights["model.embed_tokens.weight"][NAN_TOKEN] = 3e38
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def make_weights(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a Llama, by Hugging Face's names."""
    generator = torch.Generator().manual_seed(20)
    shapes = _shapes(config)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: 1 + 0.2 * item if item.dim() == 1 else 0.25 * item for name, item in noise.items()}


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    layer = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    ends = {"model.embed_tokens": (vocab, hidden), "model.norm": (hidden,), "lm_head": (vocab, hidden)}
    layers = range(config["num_hidden_layers"])
    shapes = ends | {f"model.layers.{at}.{name}": shape for at in layers for name, shape in layer.items()}
    return {f"{name}.weight": shape for name, shape in shapes.items()}
