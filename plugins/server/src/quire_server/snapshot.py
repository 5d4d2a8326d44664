"""The KV cache at one moment: which request owns which block. For people to look at."""

from __future__ import annotations

import msgspec

from quire.engine import Engine
from quire.scheduling.stats import SchedulerStats


class RunningRequest(msgspec.Struct, frozen=True):
    """One sequence on the device. `num_cached_tokens` of its prompt were found in the prefix cache."""

    request_id: str
    num_prompt_tokens: int
    num_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    block_ids: list[int]


class Snapshot(msgspec.Struct, frozen=True):
    """All of it. Block ids are `first_block` … `first_block + num_blocks - 1`; `waiting` are tokens by request."""

    first_block: int
    num_blocks: int
    running: list[RunningRequest]
    waiting: dict[str, int]
    cached_blocks: list[int]
    stats: SchedulerStats


def take_snapshot(engine: Engine) -> Snapshot:
    """Describe the engine between two steps. Thread: the engine's."""
    pool = engine.scheduler.pool
    running = [
        RunningRequest(
            request.request_id,
            request.prompt_len,
            request.num_tokens,
            request.num_computed_tokens,
            max(request.num_cached_tokens, 0),
            list(request.block_ids),
        )
        for request in engine.scheduler.roster.running.values()
    ]
    waiting = engine.scheduler.queue.lengths()
    return Snapshot(pool.reserved, pool.num_usable, running, waiting, pool.cached_blocks(), engine.stats())
