"""Inputs of apply_penalties and sample."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from quire.backend.contract import KernelRequest
from quire.ops.cases.source import Source
from quire.ops.spec import OpCase

SHAPES = ((1, 1), (1, 7), (5, 1000), (3, 4099), (16, 513))  # rows, vocabulary


def apply_penalties_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield every penalty alone, all together and none, by row."""
    source = Source(dtype, seed)
    for num_rows, vocab_size in SHAPES:
        counts = source.integers(4, num_rows, vocab_size) * (source.uniform(num_rows, vocab_size) < 0.3)
        inputs = {
            "logits": source.normal(num_rows, vocab_size, scale=4.0),
            "prompt_mask": source.uniform(num_rows, vocab_size) < 0.2,
            "output_counts": counts.int(),
            "presence": _cycle((0.0, 0.7, 0.0, 0.0, -0.4), num_rows),
            "frequency": _cycle((0.0, 0.0, 0.3, 0.0, 0.2), num_rows),
            "repetition": _cycle((1.0, 1.0, 1.0, 1.3, 0.8), num_rows),
        }
        request = KernelRequest("apply_penalties", dtype, {"vocab_size": vocab_size})
        yield OpCase(f"R={num_rows} V={vocab_size}", request, inputs)


def sample_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield rows with every setting alone and together; then tied logits, forbidden tokens and extreme settings."""
    source = Source(dtype, seed)
    for num_rows, vocab_size in SHAPES:
        logits = source.normal(num_rows, vocab_size, scale=3.0)
        yield _sample_case(f"R={num_rows} V={vocab_size}", logits, dtype, source)
    tied = source.integers(3, 9, 257).to(source.dtype)
    yield _sample_case("ties", tied, dtype, source)
    forbidden = source.normal(9, 257).masked_fill(source.uniform(9, 257) < 0.98, float("-inf"))
    forbidden[:, 200] = 0.0
    yield _sample_case("forbidden tokens", forbidden, dtype, source)
    yield _thresholds(dtype, source)
    yield _extremes(dtype, source)


def _sample_case(label: str, logits: torch.Tensor, dtype: str, source: Source) -> OpCase:
    num_rows, vocab_size = logits.shape
    inputs = {
        "logits": logits,
        "temperature": _cycle((0.0, 1.0, 0.7, 1.0, 1.3, 1.0, 0.6), num_rows),
        "top_k": _cycle((0, 0, 5, 0, 0, 40, 0), num_rows).int(),
        "top_p": _cycle((1.0, 1.0, 1.0, 0.9, 1.0, 0.8, 1.0), num_rows),
        "min_p": _cycle((0.0, 0.0, 0.0, 0.0, 0.1, 0.05, 0.0), num_rows),
        "seeds": source.integers(2**62, num_rows) * 2 - 2**62,
        "positions": source.integers(100_000, num_rows),
    }
    return OpCase(label, KernelRequest("sample", dtype, {"vocab_size": vocab_size}), inputs)


def _thresholds(dtype: str, source: Source) -> OpCase:
    """Nearly equal logits and narrow filters, one in each row: a filter that keeps one token more or less shows."""
    num_rows = 48
    inputs = {
        "logits": source.normal(num_rows, 67, scale=0.2),
        "temperature": torch.ones(num_rows),
        "top_k": _cycle((1, 2, 3, 0, 0, 0), num_rows).int(),
        "top_p": _cycle((1.0, 1.0, 1.0, 0.03, 0.06, 1.0), num_rows),
        "min_p": _cycle((0.0, 0.0, 0.0, 0.0, 0.0, 0.9), num_rows),
        "seeds": source.integers(2**62, num_rows),
        "positions": source.integers(100_000, num_rows),
    }
    return OpCase("narrow filters", KernelRequest("sample", dtype, {"vocab_size": 67}), inputs)


def _extremes(dtype: str, source: Source) -> OpCase:
    """Filters that leave one token, filters wider than the vocabulary, a position past 32 bits, seeds of all ones."""
    inputs = {
        "logits": source.normal(6, 101, scale=3.0),
        "temperature": torch.tensor([1.0, 1.0, 1.0, 1.0, 0.01, 100.0]),
        "top_k": torch.tensor([1, 0, 0, 1000, 0, 0], dtype=torch.int32),
        "top_p": torch.tensor([1.0, 1e-6, 1.0, 1.0, 1.0, 1.0]),
        "min_p": torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        "seeds": torch.tensor([0, 1, 2, 3, -1, 2**63 - 1]),
        "positions": torch.tensor([0, 1, 2, 2**32 + 5, 4, 5]),
    }
    return OpCase("extreme settings", KernelRequest("sample", dtype, {"vocab_size": 101}), inputs)


def _cycle(values: tuple[float, ...], count: int) -> torch.Tensor:
    """Return float32 `values`, repeated to `count`; one row gets the last, which does most."""
    return torch.tensor([values[index % len(values)] for index in range(count)] if count > 1 else [values[-1]])
