"""From hidden states to one embedding for each row."""

from __future__ import annotations

from typing import Literal

import torch

Pooling = Literal["last", "mean"]


def pool(hidden: torch.Tensor, query_start: torch.Tensor, pooling: Pooling, normalize: bool = True) -> torch.Tensor:
    """Return `[R, H]` float32: each row's last hidden state, or the mean of its hidden states, as a unit vector or not.

    `hidden` `[T, H]` holds the tokens of whole rows, row r at ``query_start[r] … query_start[r + 1] - 1``; no row is
    empty. A prompt computed in chunks has to be put together before.
    """
    starts, ends = query_start[:-1].long(), query_start[1:].long()
    pooled = hidden[ends - 1].float() if pooling == "last" else _mean(hidden.float(), starts, ends)
    return torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled


def _mean(hidden: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    rows = torch.repeat_interleave(ends - starts)
    sums = hidden.new_zeros(len(starts), hidden.shape[-1]).index_add_(0, rows, hidden[starts[0] : ends[-1]])
    return sums / (ends - starts)[:, None]
