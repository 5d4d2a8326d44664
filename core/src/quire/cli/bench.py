"""`quire bench`: throughput, latency, startup, scheduler. What is measured, and how, stands in `quire.bench`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quire.cli.console import notes
from quire.cli.options import engine_options
from quire.cli.plan import describe_memory, size

if TYPE_CHECKING:
    from quire.bench.latency import Latency
    from quire.bench.throughput import Throughput

ModelArgument = Annotated[str, typer.Argument(help="Built-in shape (r100m, r600m: random weights) or any model.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads, for Quire, the peer and the machine's limits.")]
RepsOption = Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def make_app(guard: Callable[[Callable[..., None]], Callable[..., None]]) -> typer.Typer:
    """Return the group of bench commands; `guard` tells errors."""
    app = typer.Typer(help="Measure throughput, latency, startup, or the scheduler alone.", no_args_is_help=True)
    for command in (throughput, latency, startup, scheduler):
        app.command()(guard(command))
    return app


@engine_options
def throughput(
    model: ModelArgument = "r100m",
    *,
    settings: dict[str, Any],
    threads: ThreadsOption = None,
    reps: RepsOption = 1,
    requests: Annotated[int, typer.Option(min=1, help="Requests in the workload.")] = 64,
    against: Annotated[str | None, typer.Option(help="Also run a peer on the same workload: transformers.")] = None,
    against_limit: Annotated[
        float, typer.Option(help="Seconds the peer may take; then what it has done counts.")
    ] = 900,
    as_json: JsonOption = False,
) -> None:
    """Run 64 requests (prompts of 32–512 tokens, outputs of 32–256) and print tokens/s beside the machine's limits."""
    use_threads(threads)
    _check_peer(against)
    from quire.bench.peer import run_transformers
    from quire.bench.shapes import open_model
    from quire.bench.throughput import measure_throughput

    console = notes()
    with open_model(model, settings.get("dtype", "float32")) as found:
        seen = measure_throughput(found, settings, reps, requests, lambda text: console.print(f"[dim]{text}[/]"))
        peer = None
        if against is not None:
            console.print(f"[dim]running transformers' continuous batching, at most {against_limit:.0f} s …[/]")
            peer = run_transformers(found.path, seen, against_limit)
    if as_json:
        print(json.dumps({**asdict(seen), "tokens_per_s": seen.tokens_per_s, "peer": peer}, indent=2))
    else:
        Console(highlight=False).print(_throughput_table(seen, peer))


@engine_options
def latency(
    model: ModelArgument = "r100m",
    *,
    settings: dict[str, Any],
    threads: ThreadsOption = None,
    reps: RepsOption = 3,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 32,
    as_json: JsonOption = False,
) -> None:
    """Time one request alone: its first token, then tokens/s beside what reading the weights allows."""
    use_threads(threads)
    from quire.bench.latency import measure_latency
    from quire.bench.shapes import open_model

    with open_model(model, settings.get("dtype", "float32")) as found:
        seen = measure_latency(found, settings, reps, prompt)
    if as_json:
        print(json.dumps(asdict(seen), indent=2))
    else:
        Console(highlight=False).print(_latency_table(seen))


@engine_options
def startup(
    model: ModelArgument = "r100m",
    *,
    settings: dict[str, Any],
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where the time goes between starting the process and the first token."""
    use_threads(threads)
    from quire.bench.shapes import open_model
    from quire.bench.startup import measure_startup

    with open_model(model, settings.get("dtype", "float32")) as found:
        stages = measure_startup(found, settings)
    if as_json:
        print(json.dumps([stage._asdict() for stage in stages], indent=2))
        return
    table = Table("stage", "seconds", title=escape(f"startup of {found.name}"), title_justify="left")
    for stage in stages:
        table.add_row(stage.name, f"{stage.seconds:.2f}")
    table.add_section()
    table.add_row("start to first token", f"{sum(stage.seconds for stage in stages[:-1]):.2f}")
    Console(highlight=False).print(table)


def scheduler(
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure at each load.")] = 300,
    as_json: JsonOption = False,
) -> None:
    """Measure the host's work for a step, without a device: microseconds at 256 and 1,024 running requests."""
    from quire.bench.scheduler import measure_all

    costs = list(measure_all(steps))
    if as_json:
        print(json.dumps([{**cost._asdict(), "load": cost.load._asdict()} for cost in costs], indent=2))
        return
    table = Table("running", "queued", "schedule µs", "commit µs", "step µs", "add µs", "tokens/s")
    for cost in costs:
        times = (cost.schedule_us, cost.commit_us, cost.step_us, cost.add_us)
        loads = (f"{cost.load.num_running:,}", f"{cost.load.num_queued:,}")
        table.add_row(*loads, *(f"{time:.0f}" for time in times), f"{cost.tokens_per_s:,.0f}")
    Console(highlight=False).print(table)


def use_threads(threads: int | None) -> None:
    """Tell libraries that have not been loaded yet how many threads to use."""
    if threads is None:
        return
    if threads < 1:
        raise typer.BadParameter(f"--threads is {threads}; it must be at least 1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def _check_peer(against: str | None) -> None:
    if against not in (None, "transformers"):
        raise typer.BadParameter(f"--against is {against!r}; the only peer that runs from here is transformers")


def _throughput_table(seen: Throughput, peer: Mapping[str, Any] | None) -> Table:
    title = f"{seen.model}, {seen.dtype}, {seen.threads} threads, {seen.backend} ({seen.device})"
    table = Table("", "", show_header=False, title=escape(title), title_justify="left")
    table.add_row(
        "workload", f"{seen.num_requests} requests, {seen.prompt_tokens:,} tokens in, {seen.output_tokens:,} out"
    )
    table.add_row("output", f"[bold]{seen.tokens_per_s:.1f} tok/s[/], {_list(seen.seconds)} s")
    if seen.limit_tokens_per_s and seen.share_of_limit:
        limit = f"{seen.limit_tokens_per_s:.0f} tok/s by float32 products at {seen.gflops:.0f} GFLOP/s"
        table.add_row("limit of the machine", f"{limit}; reached {seen.share_of_limit:.0%}")
    table.add_row("other processes", _others(seen.others_cores))
    table.add_row("KV waste", f"{seen.kv_waste:.2%} of slots held and not written; {seen.num_preemptions} preemptions")
    if seen.memory is not None:
        table.add_row("memory", describe_memory(seen.memory))
    table.add_row("peak of the process", size(seen.peak_memory_bytes))
    table.add_row("start to first token", f"{seen.first_token_s:.1f} s")
    if peer is not None:
        state = "" if peer["finished"] else f", stopped at {peer['generated_tokens']:,} tokens"
        table.add_row(peer["engine"], f"{peer['tokens_per_s']:.1f} tok/s, {peer['seconds']:.0f} s{state}")
        table.add_row("ratio", f"[bold]{seen.tokens_per_s / peer['tokens_per_s']:.2f}×[/]")
    return table


def _latency_table(seen: Latency) -> Table:
    title = f"{seen.model}, {seen.dtype}, {seen.threads} threads, {seen.backend} ({seen.device}), one request alone"
    table = Table("", "", show_header=False, title=escape(title), title_justify="left")
    table.add_row(f"first token, prompt of {seen.prompt_tokens}", f"{seen.first_token_s * 1e3:.1f} ms")
    table.add_row("then", f"[bold]{seen.decode_tokens_per_s:.1f} tok/s[/]")
    if seen.limit_tokens_per_s and seen.share_of_limit:
        limit = f"{seen.limit_tokens_per_s:.0f} tok/s reading weights at {seen.read_gb_per_s:.1f} GB/s"
        table.add_row("limit of the machine", f"{limit}; reached {seen.share_of_limit:.0%}")
    table.add_row("other processes", _others(seen.others_cores))
    return table


def _others(cores: float | None) -> str:
    if cores is None:
        return "not known"
    return f"{cores:.1f} cores busy meanwhile" + (": the figures are too low" if cores > 0.2 else "")


def _list(seconds: tuple[float, ...]) -> str:
    return ", ".join(f"{item:.1f}" for item in seconds)
