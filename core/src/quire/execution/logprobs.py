"""Log-probabilities of chosen and likeliest tokens, started on the device and read when the step is collected."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch

from quire.backend.contract import Device, HostRead
from quire.ops.logprobs import top_logprobs
from quire.plan import TokenLogprobs
from quire.sampling import SamplingParams


class PendingLogprobs(NamedTuple):
    """The logprobs of N positions on their way to the host; position i keeps its best `counts[i]`."""

    token_ids: HostRead  # [N, 1 + k]
    logprobs: HostRead  # [N, 1 + k]
    ranks: HostRead  # [N]
    counts: list[int]

    def wait(self) -> tuple[TokenLogprobs, ...]:
        """Block until they are here."""
        token_ids, logprobs, ranks = (read.wait().numpy() for read in (self.token_ids, self.logprobs, self.ranks))
        return tuple(
            TokenLogprobs(token_ids[i, : 1 + count], logprobs[i, : 1 + count], int(ranks[i]))
            for i, count in enumerate(self.counts)
        )


class PendingParts(NamedTuple):
    """The same of positions that were computed part by part."""

    parts: Sequence[PendingLogprobs]

    def wait(self) -> tuple[TokenLogprobs, ...]:
        """Block until all are here."""
        return tuple(chain.from_iterable(part.wait() for part in self.parts))


def start(device: Device, logits: torch.Tensor, chosen: torch.Tensor, counts: list[int]) -> PendingLogprobs:
    """Compute logprobs of `logits` [N, V] for the `chosen` [N] tokens and each position's best, and begin the copy."""
    token_ids, logprobs, ranks = top_logprobs(logits, chosen, max(counts))
    return PendingLogprobs(
        device.to_host(token_ids.int()), device.to_host(logprobs), device.to_host(ranks.int()), counts
    )


def num_wanted(asked: int, vocab_size: int) -> int:
    """Return how many of the likeliest tokens to keep: -1 asks for all."""
    return vocab_size if asked == SamplingParams.ALL_LOGPROBS else min(asked, vocab_size)
