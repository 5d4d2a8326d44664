"""Log-probabilities of a chosen token and of the likeliest ones, for sampled and for prompt positions."""

from __future__ import annotations

from typing import NamedTuple

import torch

from quire.ops.reference.precision import wide


class TopLogprobs(NamedTuple):
    """The chosen token of each position, then its likeliest, best first; natural logarithms."""

    token_ids: torch.Tensor  # [N, 1 + k] int64
    logprobs: torch.Tensor  # [N, 1 + k] float32
    ranks: torch.Tensor  # [N] int64: the chosen token's rank, from 1; equal logits share the better rank


def top_logprobs(logits: torch.Tensor, chosen: torch.Tensor, k: int) -> TopLogprobs:
    """Return the logprobs of `chosen` [N] and of the `k` likeliest tokens of logits [N, V]; -1 asks for all.

    Equals gathering from ``log_softmax(logits)``, without making that whole matrix.
    """
    logits = logits.to(wide(logits.dtype))
    vocab_size = logits.shape[1]
    chosen = chosen[:, None].long()
    chosen_logits = logits.gather(1, chosen)
    best = _best(logits, vocab_size if k < 0 else min(k, vocab_size))
    picked = torch.cat((chosen_logits, best.values), dim=1)
    ranks = 1 + (logits > chosen_logits).sum(-1)
    return TopLogprobs(torch.cat((chosen, best.indices), dim=1), picked - logits.logsumexp(-1, keepdim=True), ranks)


class _Best(NamedTuple):
    values: torch.Tensor
    indices: torch.Tensor


def _best(logits: torch.Tensor, k: int) -> _Best:
    if k == logits.shape[1]:
        return _Best(*logits.sort(dim=-1, descending=True, stable=True))
    return _Best(*logits.topk(k, dim=-1))
