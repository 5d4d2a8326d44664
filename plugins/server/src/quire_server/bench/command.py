"""`quire bench serve`: put a load on a server and print what its clients see."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quire.cli.console import notes
from quire.cli.options import engine_options
from quire.config import make_config
from quire.errors import ConfigError, QuireError
from quire_server.bench.compare import Overhead, compare
from quire_server.bench.http_target import HttpTarget
from quire_server.bench.load import Run, run_load
from quire_server.bench.own_server import own_server
from quire_server.bench.summary import Summary, parse_limits, summarize
from quire_server.bench.workload import Item, draw_items, read_items

Report = Callable[[str], None]


@engine_options
def bench_serve(
    model: Annotated[str | None, typer.Argument(help="Model to serve; with --url, its name there.")] = None,
    *,
    settings: dict[str, Any],
    url: Annotated[str | None, typer.Option(help="A running server; without it, one is started here.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The server's key.", envvar="QUIRE_API_KEY")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests to send.")] = 128,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests under way at once; 32 by default.")] = None,
    request_rate: Annotated[float | None, typer.Option(min=0.001, help="Arrivals a second, as Poisson's.")] = None,
    lengths: Annotated[Path | None, typer.Option(help="Lengths or prompts as JSON lines, instead of drawn.")] = None,
    seed: Annotated[int, typer.Option(help="Of lengths, tokens and arrivals.")] = 0,
    reps: Annotated[int, typer.Option(min=1, help="Rounds; the one of median throughput is told.")] = 1,
    goodput: Annotated[list[str] | None, typer.Option(help="A limit in ms, as in ttft:200; repeatable.")] = None,
    against_engine: Annotated[bool, typer.Option("--against-engine", help="Also measure the engine alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a load on a server: throughput, times to first and later tokens, goodput, and the cost over the engine."""
    if concurrency is not None and request_rate is not None:
        raise ConfigError("--concurrency and --request-rate exclude each other; give one of them")
    limits = parse_limits(goodput or [])
    num_at_once = (concurrency or 32) if request_rate is None else None
    make = (lambda *rest: read_items(lengths, *rest)) if lengths is not None else draw_items
    loads = [make(requests, seed + number, request_rate) for number in range(reps)]
    console = notes()
    work = _measure(Asked(model, url, api_key, settings, against_engine), loads, num_at_once, console.print)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        seen = runner.run(work)
    runs = sorted(seen.runs, key=lambda run: run.output_tokens_per_s)
    _tell(summarize(runs[len(runs) // 2], limits), seen.overhead, as_json)


class Asked(NamedTuple):
    """What to measure: a server that runs, or one to start."""

    model: str | None
    url: str | None
    api_key: str | None
    settings: dict[str, Any]
    against_engine: bool


class Seen(NamedTuple):
    runs: list[Run]
    overhead: Overhead | None


async def _measure(asked: Asked, loads: list[list[Item]], concurrency: int | None, report: Report) -> Seen:
    if asked.url is not None:
        if asked.settings or asked.against_engine:
            raise ConfigError(
                "--url measures a server that runs already; leave out engine options and --against-engine"
            )
        target = HttpTarget(asked.url, asked.model or "", asked.api_key)
        target.model = asked.model or await target.first_model()
        return Seen(await _run_all(target, loads, concurrency, report), None)
    if asked.model is None:
        raise ConfigError("name a MODEL to serve, or a running server with --url")
    config = make_config({"model": asked.model, **asked.settings})
    if asked.against_engine:
        return Seen(*await compare(config, loads, concurrency, report))
    async with own_server(config) as url:
        return Seen(await _run_all(HttpTarget(url, asked.model), loads, concurrency, report), None)


async def _run_all(target: HttpTarget, loads: list[list[Item]], concurrency: int | None, report: Report) -> list[Run]:
    runs = []
    await run_load(target, loads[0][:1], 1)  # what is made on the first request is not measured
    for number, items in enumerate(loads):
        runs.append(await run_load(target, items, concurrency))
        report(f"round {number + 1}: {runs[-1].output_tokens_per_s:.0f} tok/s out, {runs[-1].seconds:.1f} s")
    target.close()
    return runs


def _tell(seen: Summary, overhead: Overhead | None, as_json: bool) -> None:
    if not seen.num_done:
        raise QuireError(f"all {seen.num_failed} requests failed: {seen.first_error}")
    if as_json:
        spreads = {name: spread._asdict() for name, spread in seen.times_ms.items()}
        print(json.dumps({**asdict(seen), "times_ms": spreads, "overhead": _overhead(overhead)}, indent=2))
        return
    console = Console(highlight=False)
    console.print(_summary_table(seen))
    if overhead is not None:
        console.print(_overhead_table(overhead))


def _overhead(overhead: Overhead | None) -> dict[str, Any] | None:
    if overhead is None:
        return None
    derived = {"throughput_lost": overhead.throughput_lost, "added_ttft_ms": overhead.added_ttft_ms}
    return {**overhead._asdict(), **derived}


def _summary_table(seen: Summary) -> Table:
    table = Table("", "mean", "p50", "p90", "p99", title=_title(seen), title_justify="left")
    names = {"ttft": "first token, ms", "itl": "between events, ms", "tpot": "a later token, ms", "e2e": "whole, ms"}
    for key, name in names.items():
        table.add_row(name, *(f"{value:,.1f}" for value in seen.times_ms[key]))
    return table


def _title(seen: Summary) -> str:
    lines = [
        f"{seen.num_done} requests, {seen.prompt_tokens:,} tokens in, {seen.output_tokens:,} out, {seen.seconds:.1f} s",
        f"{seen.output_tokens_per_s:,.0f} tok/s out, {seen.requests_per_s:.2f} requests/s",
    ]
    if seen.good_share is not None:
        lines.append(f"goodput {seen.good_requests_per_s:.2f} requests/s, {seen.good_share:.1%} of all")
    if seen.num_failed:
        lines.append(f"{seen.num_failed} failed, the first: {seen.first_error}")
    return escape("\n".join(lines))


def _overhead_table(overhead: Overhead) -> Table:
    table = Table("", "server", "engine", "difference", title="the server over its engine", title_justify="left")
    server, engine = statistics.median(overhead.server_tokens_per_s), statistics.median(overhead.engine_tokens_per_s)
    table.add_row("tok/s out", f"{server:,.0f}", f"{engine:,.0f}", f"{-overhead.throughput_lost:+.1%}")
    first = (overhead.server_ttft_ms, overhead.engine_ttft_ms, overhead.added_ttft_ms)
    table.add_row("first token of one alone, ms", f"{first[0]:.2f}", f"{first[1]:.2f}", f"{first[2]:+.2f}")
    return table


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
