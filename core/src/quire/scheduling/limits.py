"""How large a step may be: the user's settings and the device's constraints, brought together once."""

from __future__ import annotations

import sys
from typing import NamedTuple

from quire.backend.contract import ExecutorFacts
from quire.config import EngineConfig
from quire.errors import ConfigError


class StepLimits(NamedTuple):
    """What a plan obeys. `num_rows` is at most `budget`, so that all running requests can decode in one step."""

    budget: int
    num_rows: int
    max_prefills: int
    chunk_multiple: int
    mix_prefill_decode: bool

    def chunk(self, want: int, room: int) -> int:
        """Return how many of `want` tokens to compute now: all, or a multiple that fits the room."""
        return want if want <= room else max(room, 0) // self.chunk_multiple * self.chunk_multiple


def step_limits(config: EngineConfig, facts: ExecutorFacts) -> StepLimits:
    """Return the tightest of all limits. Raise ConfigError where no step could make progress."""
    device = facts.schedule
    budget = min([config.max_num_batched_tokens, *device.token_buckets[-1:]])
    num_rows = min([config.max_num_seqs, facts.max_rows, budget, *device.row_buckets[-1:]])
    if budget < device.chunk_multiple:
        raise ConfigError(
            f"max_num_batched_tokens is {budget}; this backend computes prompts in multiples of "
            f"{device.chunk_multiple} tokens, so it must be at least that"
        )
    prefills = device.max_prefill_requests
    return StepLimits(
        budget=budget,
        num_rows=num_rows,
        max_prefills=sys.maxsize if prefills is None else max(prefills, 1),
        chunk_multiple=device.chunk_multiple,
        mix_prefill_decode=device.mix_prefill_decode,
    )
