"""`quire demo`: the demo model on the best backend, several prompts at once, and what the engine did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quire.cli.options import engine_options
from quire.cli.session import Meter, Summary, open_session, sampling_params, stream

if TYPE_CHECKING:
    from quire.backend.contract import ExecutorContext
    from quire.engine import Engine
    from quire.outputs import RequestOutput
    from quire.scheduling.blocks import BlockPool

MAX_TOKENS = 96
MEASURE_EVERY = 10  # outputs
SAMPLING = {"temperature": 0.6, "top_p": 0.9, "seed": 7}

PREAMBLE = '''"""Questions about files, answered by the operating system. Errors become answers."""

import os
import stat


def exists(path):
    """Return True if path refers to an existing file or folder. Broken symbolic links do not exist."""
    try:
        os.stat(path)
    except OSError:
        return False
    return True


'''
FIRST_PROMPTS = (
    PREAMBLE + 'def is_folder(path):\n    """Return',
    "The purpose of this module is to",
    "class Queue:\n",
)
LATER_PROMPTS = (
    PREAMBLE + 'def size_of(path):\n    """Return',
    PREAMBLE + "def read_lines(path):\n",
    "When a file cannot be opened,",
)
"""These arrive when the first answer has begun; those with the preamble find its KV blocks in the cache."""


class Peak(NamedTuple):
    """The most KV blocks that were in use at once, and how many of them several requests shared."""

    used: int = 0
    shared: int = 0


class View(Protocol):
    """Shows answers while they grow."""

    def show(self, output: RequestOutput) -> None: ...


@engine_options
def demo(
    model: Annotated[str, typer.Option(help="Model folder, installed model, or Hugging Face id.")] = "demo",
    *,
    settings: dict[str, Any],
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-m", help="Most tokens of each answer.")] = MAX_TOKENS,
) -> None:
    """Show the engine at work: stream several prompts at once, then say what it did."""
    console = Console(highlight=False, emoji=False)
    with open_session(model, settings, console) as opened:
        params = {**SAMPLING, "max_tokens": max_tokens}
        summary, peak = play(opened.engine, console, params)
        console.print(summary_table(opened.engine, opened.context, summary, peak))


def play(engine: Engine, console: Console, sampling: dict[str, Any]) -> tuple[Summary, Peak]:
    """Run the prompts, showing the answers; the later ones arrive when the first has begun to answer."""
    params = sampling_params(engine, sampling, MAX_TOKENS, output_kind="delta")
    prompts = {str(number): text for number, text in enumerate((*FIRST_PROMPTS, *LATER_PROMPTS))}
    early, late = list(prompts)[: len(FIRST_PROMPTS)], list(prompts)[len(FIRST_PROMPTS) :]
    for name in early:
        engine.add(name, prompts[name], params)
    meter, peak = Meter(), Peak()
    with open_view(console, prompts) as view:
        for count, output in enumerate(stream(engine)):
            while late:
                name = late.pop(0)
                engine.add(name, prompts[name], params)
            meter.watch(output)
            view.show(output)
            if count % MEASURE_EVERY == 0:
                peak = measure(engine.scheduler.pool, peak)
    return meter.summary(), peak


def measure(pool: BlockPool, peak: Peak) -> Peak:
    """Return the peak, raised to what is in use now."""
    shared = sum(pool.num_owners(block) > 1 for block in range(pool.num_blocks))
    return Peak(max(peak.used, pool.num_used), max(peak.shared, shared))


# -- showing -----------------------------------------------------------------------------------------------------


@contextmanager
def open_view(console: Console, prompts: dict[str, str]) -> Iterator[View]:
    """Yield a view that redraws all answers on a terminal, and one that prints each when it is done elsewhere."""
    if not console.is_terminal:
        yield LineView(console, prompts)
        return
    view = LiveView(prompts)
    with Live(view.render(), console=console, refresh_per_second=12, get_renderable=view.render):
        yield view


class LineView:
    """Prints each answer when it is done."""

    def __init__(self, console: Console, prompts: dict[str, str]) -> None:
        self._console = console
        self._prompts = prompts
        self._texts = dict.fromkeys(prompts, "")

    def show(self, output: RequestOutput) -> None:
        self._texts[output.request_id] += output.outputs[0].text
        if output.finished:
            number = int(output.request_id) + 1
            self._console.print(f"[dim]── {number} of {len(self._prompts)}[/]")
            self._console.print(answer(self._prompts[output.request_id], self._texts[output.request_id]))


class LiveView:
    """Holds the answers as they grow; `render` is called whenever the terminal is redrawn."""

    def __init__(self, prompts: dict[str, str]) -> None:
        self._prompts = prompts
        self._texts = dict.fromkeys(prompts, "")
        self._finished: set[str] = set()

    def show(self, output: RequestOutput) -> None:
        self._texts[output.request_id] += output.outputs[0].text
        if output.finished:
            self._finished.add(output.request_id)

    def render(self) -> Group:
        return Group(*(self._answer(name) for name in self._prompts))

    def _answer(self, name: str) -> Group:
        mark = "[green]✓[/]" if name in self._finished else "[yellow]…[/]"
        return Group(Text.from_markup(mark), answer(self._prompts[name], self._texts[name]))


def answer(prompt: str, text: str) -> Padding:
    """Return the end of a prompt and what the model made of it, set apart by colour."""
    return Padding(Text.assemble((tail(prompt), "bold"), (text.rstrip("\n"), "cyan")), (0, 0, 1, 2))


def tail(prompt: str) -> str:
    """Return the end of a prompt, which tells it from others: what follows two empty lines."""
    start, _, end = prompt.rpartition("\n\n\n")
    return f"…\n{end}" if start else end


# -- what it did -------------------------------------------------------------------------------------------------


def summary_table(engine: Engine, context: ExecutorContext, summary: Summary, peak: Peak) -> Table:
    """Return what the engine did, for people."""
    stats, config, pool = engine.stats(), context.config, engine.scheduler.pool
    table = Table(box=None, show_header=False, padding=(0, 1), title="what the engine did", title_justify="left")
    table.add_row("requests", f"{summary.num_requests}; the batch has {config.max_num_seqs} seats")
    table.add_row(
        "speed", f"{summary.output_tokens} tokens in {summary.seconds:.2f} s: {summary.tokens_per_s:.0f} tok/s"
    )
    table.add_row("first token", f"after {summary.first_token_s * 1e3:.0f} ms (median)")
    table.add_row("KV blocks", f"at most {peak.used} of {pool.num_usable} in use, {peak.shared} of them shared")
    table.add_row("KV waste", f"{stats.kv_waste:.1%} of the slots held were not written")
    saved = f"{stats.num_prefix_hits} of {stats.num_prefix_queries} prompt tokens came from the cache"
    table.add_row("prefix cache", f"{saved} ({stats.prefix_hit_rate:.0%})")
    table.add_row("backend", f"{context.selection.name}: {escape(context.device.name)}")
    table.add_row("kernels", escape(served_by(context)))
    return table


def served_by(context: ExecutorContext) -> str:
    """Return the ops that were bound, by provider."""
    ops: dict[str, list[str]] = {}
    for item in context.table.resolutions:
        names = ops.setdefault(item.provider, [])
        if item.request.op not in names:
            names.append(item.request.op)
    return "; ".join(f"{provider}: {', '.join(sorted(names))}" for provider, names in ops.items())
