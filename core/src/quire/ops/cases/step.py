"""Inputs of gather_step, select_rows and draw_tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from quire.backend.contract import KernelRequest
from quire.ops.cases.sampling import sample_cases
from quire.ops.cases.source import Source
from quire.ops.spec import OpCase

MAX_LEN = 67


def gather_step_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield steps of 1 to 33 tokens of 1 to 5 rows; the last seat is scratch, of which padding reads: its blocks are
    -1."""
    source = Source(dtype, seed)
    for num_tokens, num_rows, block_size, num_blocks in ((1, 1, 16, 5), (7, 5, 16, 3), (33, 2, 1, 67), (5, 3, 32, 1)):
        seats = num_rows + 2
        blocks = source.integers(1000, seats, -(-MAX_LEN // block_size)).int()
        blocks[-1] = -1
        inputs = {
            "tokens": source.integers(50_000, seats, MAX_LEN).int(),
            "blocks": blocks,
            "token_rows": source.integers(seats, num_tokens).int(),
            "positions": source.integers(MAX_LEN, num_tokens).int(),
            "rows": source.distinct(seats, num_rows).int(),
            "block_size": block_size,
            "num_blocks": num_blocks,
        }
        label = f"T={num_tokens} R={num_rows} block={block_size} of {num_blocks}"
        yield OpCase(label, KernelRequest("gather_step", dtype, {"block_size": block_size}), inputs)


def select_rows_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield 1 to 9 of up to 20 rows, one twice; some hold NaN or infinity, at the first or the last place."""
    source = Source(dtype, seed)
    for num_tokens, size, num_selected in ((1, 1, 1), (5, 97, 4), (20, 1024, 9), (3, 1000, 3)):
        hidden = source.normal(num_tokens, size)
        hidden[0, -1] = float("nan") if num_tokens > 1 else 1.0
        hidden[num_tokens // 2, 0] = float("inf") if num_tokens > 3 else 2.0
        index = source.integers(num_tokens, num_selected).int()
        index[-1] = index[0]
        request = KernelRequest("select_rows", dtype, {"hidden_size": size})
        yield OpCase(f"T={num_tokens} H={size} S={num_selected}", request, {"hidden": hidden, "index": index})


def draw_tokens_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield the sampler's cases, their settings held in tables of more rows than are drawn for."""
    source = Source(dtype, seed)
    for case in sample_cases(dtype, seed):
        given = dict(case.inputs)
        count = len(given["logits"])
        rows = source.distinct(count + 3, count)
        tables = {name: given[name] for name in ("temperature", "top_k", "top_p", "min_p", "seeds")}
        inputs = {
            "logits": given["logits"],
            **{name: _spread(values, rows, count + 3) for name, values in tables.items()},
            "rows": rows.int(),
            "positions": source.integers(MAX_LEN, count).int(),
            "tokens": source.integers(1000, count + 3, MAX_LEN).int(),
        }
        yield OpCase(case.label, KernelRequest("draw_tokens", dtype, case.request.attributes), inputs)


def _spread(values: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return a table [num_rows] that holds `values` at `rows`; what no draw may read is far out of range."""
    table = torch.full((num_rows,), 77, dtype=values.dtype)
    table[rows] = values
    return table
