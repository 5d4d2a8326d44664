"""Model shapes to measure with, when no checkpoint is at hand: a config.json made on the fly, weights are dummies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

COMMON = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}

SHAPES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "r100m": {
            "vocab_size": 32768,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "head_dim": 64,
        },
        "r600m": {  # the shape of Qwen3-0.6B
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    }
)


class BenchModel(NamedTuple):
    """A model folder to measure, and whether its weights are to be made up."""

    name: str
    path: Path
    dummy: bool


@contextmanager
def open_model(model: str, dtype: str = "float32") -> Iterator[BenchModel]:
    """Yield the folder of a built-in shape (while the context lasts) or of any other model. Raise ModelError."""
    if model not in SHAPES:
        from quire.models.resolve import resolve_path

        yield BenchModel(model, resolve_path(model), False)
        return
    with TemporaryDirectory(prefix="quire-bench-") as folder:
        config: dict[str, Any] = {**COMMON, **SHAPES[model], "dtype": dtype}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        yield BenchModel(model, Path(folder), True)
