"""What the scheduler counts, and the report it gives."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from quire.scheduling.blocks import BlockPool

STEP_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds of the histogram of tokens in a step; a last bin holds what is larger."""


class SchedulerStats(NamedTuple):
    """Gauges of now, and totals since the start.

    `kv_usage`: share of the usable blocks that requests own now. `kv_waste`: slots owned by running requests and not
    written, over slots owned, averaged over steps. `num_prefix_queries` and `num_prefix_hits` count tokens of admitted
    requests, and how many of them the cache saved. `step_sizes[i]` counts steps of at most `STEP_SIZES[i]` tokens, and
    more than the bound before.
    """

    num_running: int
    num_waiting: int
    kv_usage: float
    kv_waste: float
    num_steps: int
    num_scheduled_tokens: int
    num_preemptions: int
    num_prefix_queries: int
    num_prefix_hits: int
    num_cached_blocks: int
    step_sizes: tuple[int, ...]

    @property
    def prefix_hit_rate(self) -> float:
        return self.num_prefix_hits / self.num_prefix_queries if self.num_prefix_queries else 0.0


@dataclass(slots=True)
class StepCounters:
    """Totals since the start."""

    num_steps: int = 0
    num_scheduled_tokens: int = 0
    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    sum_waste: float = 0.0
    step_sizes: list[int] = field(default_factory=lambda: [0] * (len(STEP_SIZES) + 1))

    def count_step(self, num_tokens: int, num_unwritten: int, num_slots: int) -> None:
        self.num_steps += 1
        self.num_scheduled_tokens += num_tokens
        self.step_sizes[bisect_left(STEP_SIZES, num_tokens)] += 1
        self.sum_waste += num_unwritten / num_slots

    def count_admission(self, num_tokens: int, num_cached: int) -> None:
        self.num_prefix_queries += num_tokens
        self.num_prefix_hits += num_cached

    def report(self, num_running: int, num_waiting: int, pool: BlockPool) -> SchedulerStats:
        return SchedulerStats(
            num_running=num_running,
            num_waiting=num_waiting,
            kv_usage=pool.num_used / pool.num_usable,
            kv_waste=self.sum_waste / self.num_steps if self.num_steps else 0.0,
            num_steps=self.num_steps,
            num_scheduled_tokens=self.num_scheduled_tokens,
            num_preemptions=self.num_preemptions,
            num_prefix_queries=self.num_prefix_queries,
            num_prefix_hits=self.num_prefix_hits,
            num_cached_blocks=pool.num_indexed,
            step_sizes=tuple(self.step_sizes),
        )
