"""The machine's own limits, measured with the threads that the engine has: products a second, bytes read a second.

Both are what torch's own libraries reach here, so an engine's share of them may pass 100% where its kernels are better.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from quire.models.checkpoint_config import read_config
from quire.models.spec import ModelSpec

PRODUCT_SIZE = 1024
READ_BYTES = 512 * 2**20  # far more than any cache


class MachineLimits(NamedTuple):
    """`flops`: float32 operations a second of a large matrix product. `read_bytes`: bytes read a second."""

    flops: float
    read_bytes: float


class ModelCost(NamedTuple):
    """What a model asks of the machine. `layer_ops`: operations for each token; `head_ops`: for each sampled token on
    top; `weight_bytes`: read for one token alone. Attention itself is not counted, so limits are a little too high."""

    layer_ops: int
    head_ops: int
    weight_bytes: int


def measure_machine() -> MachineLimits:
    """Measure both. Takes about a second and, for a moment, 0.5 GiB."""
    return MachineLimits(_measure_product(), _measure_read())


def model_cost(path: Path, spec: ModelSpec, dtype_bytes: int) -> ModelCost | None:
    """Return a dense model's cost; None for a mixture of experts, whose cost depends on the router."""
    if spec.num_experts:
        return None
    head = spec.vocab_size * spec.hidden_size
    tied = bool(read_config(path).get("tie_word_embeddings", False))
    layers = spec.num_parameters - head * (1 if tied else 2)
    return ModelCost(2 * layers, 2 * head, (layers + head) * dtype_bytes)


def throughput_limit(limits: MachineLimits, cost: ModelCost, prompt_tokens: int, output_tokens: int) -> float:
    """Return the output tokens a second at which the matrix products alone would keep the machine busy."""
    operations = (prompt_tokens + output_tokens) * cost.layer_ops + output_tokens * cost.head_ops
    return output_tokens * limits.flops / operations


def decode_limit(limits: MachineLimits, cost: ModelCost) -> float:
    """Return the tokens a second at which one sequence would read the weights as fast as memory allows."""
    return limits.read_bytes / cost.weight_bytes


def _measure_product() -> float:
    left = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE)
    seconds = _best_seconds(lambda: torch.mm(left, left), 20)
    return 2 * PRODUCT_SIZE**3 / seconds


def _measure_read() -> float:
    matrix = torch.ones(READ_BYTES // 4 // 8192, 8192)
    vector = torch.ones(8192)
    seconds = min(_best_seconds(lambda: torch.mv(matrix, vector), 5), _best_seconds(lambda: matrix.sum(), 5))
    return READ_BYTES / seconds


def _best_seconds(function: Callable[[], object], repetitions: int) -> float:
    function()
    best = float("inf")
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - started)
    return best
