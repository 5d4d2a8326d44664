"""What begins and ends a step on the device: look up its inputs in the rows, pick hidden states, append tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quire.backend.contract import KernelRequest
from quire.ops.reference.sampling import sample
from quire.ops.spec import Bind


def gather_step(
    tokens: torch.Tensor,
    blocks: torch.Tensor,
    token_rows: torch.Tensor,
    positions: torch.Tensor,
    rows: torch.Tensor,
    block_size: int,
    num_blocks: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, positions and slots [T] int64, and the block tables [R, num_blocks] of `rows`."""
    where, at = token_rows.long(), positions.long()
    entries = blocks[where, at // block_size].long()
    slots = entries * block_size + at % block_size
    return tokens[where, at].long(), at, slots, blocks[rows.long(), :num_blocks]


def select_rows(hidden: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows `index` [S] of hidden [T, H], and which of them are finite throughout."""
    selected = hidden[index.long()]
    return selected, selected.isfinite().all(-1)


def draw_tokens(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seeds: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    tokens: torch.Tensor,
) -> torch.Tensor:
    """Draw as `sample` does, with the settings of `rows` [S], and put each token at its position of its row.

    Mutates tokens. Returns the tokens [S] int64.
    """
    return _draw_with(sample)(logits, temperature, top_k, top_p, min_p, seeds, rows, positions, tokens)


def compose_draw_tokens(request: KernelRequest, bind: Bind) -> Callable[..., Any]:
    """Build draw_tokens from the bound sampler."""
    return _draw_with(bind(KernelRequest("sample", request.dtype, request.attributes)))


def _draw_with(sampler: Callable[..., Any]) -> Callable[..., Any]:
    def run(
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        min_p: torch.Tensor,
        seeds: torch.Tensor,
        rows: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        where, at = rows.long(), positions.long()
        settings = (table[where] for table in (temperature, top_k, top_p, min_p, seeds))
        chosen: torch.Tensor = sampler(logits, *settings, at)
        tokens[where, at] = chosen.to(tokens.dtype)
        return chosen

    return run
