"""Tiny seeded checkpoints, written by transformers: awkward sizes, grouped heads, weights large enough to matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 48,
    "intermediate_size": 83,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LOCAL_AND_FULL = ["sliding_attention", "full_attention", "sliding_attention"]

NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama with biases and wide heads": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 14}),
    "llama with one head": ("Llama", {"num_attention_heads": 1, "num_key_value_heads": 1}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral with a window": ("Mistral", {"sliding_window": 9}),
    "smollm 3": ("SmolLM3", {"num_hidden_layers": 4}),
    "qwen 2": ("Qwen2", {}),
    "qwen 2 with windows above": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ),
    "qwen 3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen 3 moe": (
        "Qwen3Moe",
        {
            "head_dim": 16,
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 29,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
    "qwen 3 moe without renormalising": (
        "Qwen3Moe",
        {"head_dim": 16, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma 2": ("Gemma2", {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 11}),
    "gemma 3": ("Gemma3", {"head_dim": 16, "sliding_window": 9, "layer_types": LOCAL_AND_FULL}),
    "phi 3": ("Phi3", {}),
    "phi 3 with a window and partial rotation": ("Phi3", {"sliding_window": 9, "partial_rotary_factor": 0.5}),
    "olmo 2": ("Olmo2", {}),
    "olmo 3": ("Olmo3", {"sliding_window": 9, "layer_types": LOCAL_AND_FULL}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
        },
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 5}),
    "mixtral with a window": ("Mixtral", {"num_local_experts": 3, "sliding_window": 9}),
}


def write_checkpoint(
    folder: Path, family: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32, **save: Any
) -> PreTrainedModel:
    """Write a seeded checkpoint of a family to `folder` and return transformers' model of it."""
    torch.manual_seed(0)
    config_class = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")
    config = config_class(**{key: value for key, value in (SIZES | settings).items() if value is not ...})
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, **plain).eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape) * 0.25
            weight.copy_(noise if weight.dim() > 1 else weight + noise)
    model.save_pretrained(folder, **save)
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    """Return seeded token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, SIZES["vocab_size"], (length,), generator=generator).tolist()


def expected_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """Return transformers' logits `[T, V]`."""
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].float()


def expected_tokens(model: PreTrainedModel, token_ids: list[int], num_tokens: int) -> list[int]:
    """Return transformers' greedy tokens."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([token_ids])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False)
    return out[0, len(token_ids) :].tolist()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
