"""The server against its own engine: the same requests to both, in turns, so that the machine's drift hits both."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from typing import NamedTuple

from quire.config import EngineConfig
from quire_server.bench.engine_target import EngineTarget
from quire_server.bench.http_target import HttpTarget
from quire_server.bench.load import Run, Target, run_load
from quire_server.bench.own_server import own_server
from quire_server.bench.workload import Item, draw_items
from quire_server.local import open_local

ALONE = 40  # requests, one at a time, that the added time to the first token is the median of
ALONE_OUTPUT = 4


class Overhead(NamedTuple):
    """Of both sides: output tokens a second in each round; the median time to the first token of one request alone."""

    server_tokens_per_s: list[float]
    engine_tokens_per_s: list[float]
    server_ttft_ms: float
    engine_ttft_ms: float

    @property
    def throughput_lost(self) -> float:
        """The share of the engine's throughput that is lost: the median of the rounds, whose loads differ."""
        pairs = zip(self.server_tokens_per_s, self.engine_tokens_per_s, strict=True)
        return statistics.median(1 - server / engine for server, engine in pairs)

    @property
    def added_ttft_ms(self) -> float:
        return self.server_ttft_ms - self.engine_ttft_ms


class Compared(NamedTuple):
    """Each round's run on the server, and what it costs over the engine."""

    runs: list[Run]
    overhead: Overhead


async def compare(
    config: EngineConfig, loads: list[list[Item]], concurrency: int | None, report: Callable[[str], None]
) -> Compared:
    """Open a server and an engine, and put each load on both. Raise what keeps either from opening."""
    local = await asyncio.to_thread(open_local, config)
    async with local.llm as llm, own_server(config) as url:
        server, engine = HttpTarget(url, config.model), EngineTarget(llm)
        await _warm_up(server, engine, concurrency)
        runs: list[tuple[Run, Run]] = []
        for number, items in enumerate(loads):
            pair = await run_load(server, items, concurrency), await run_load(engine, items, concurrency)
            runs.append(pair)
            told = [f"{run.output_tokens_per_s:.0f}" for run in pair]
            report(f"round {number + 1}: {told[0]} tok/s by the server, {told[1]} by the engine")
        alone = await _first_tokens(server, engine)
        server.close()
    servers, engines = ([pair[side].output_tokens_per_s for pair in runs] for side in (0, 1))
    return Compared([pair[0] for pair in runs], Overhead(servers, engines, *alone))


async def _warm_up(server: Target, engine: Target, concurrency: int | None) -> None:
    items = [item._replace(output_len=8) for item in draw_items(concurrency or 8, seed=2**31)]
    for target in (server, engine):
        await run_load(target, items, None)


async def _first_tokens(server: Target, engine: Target) -> tuple[float, float]:
    """Return the median milliseconds to the first token of requests alone, sent to both in turns."""
    items = [item._replace(output_len=ALONE_OUTPUT) for item in draw_items(ALONE, seed=2**31 + 1)]
    seen: tuple[list[float], list[float]] = [], []
    for item in items:
        for target, times in zip((server, engine), seen, strict=True):
            run = await run_load(target, [item], 1)
            times += [record.first_token_s * 1e3 for record in run.done]
    return statistics.median(seen[0]), statistics.median(seen[1])
