"""An engine for the length of a command, and its outputs as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from quire.cli.console import notes

if TYPE_CHECKING:
    from quire.engine import Engine
    from quire.opening import OpenedEngine
    from quire.outputs import RequestOutput
    from quire.sampling import SamplingParams


@contextmanager
def open_session(model: str, settings: Mapping[str, Any], console: Console | None = None) -> Iterator[OpenedEngine]:
    """Open the engine, telling what is loaded and what the backend changed; shut it down at the end."""
    console = console or notes()
    started = time.perf_counter()
    console.print(f"loading [bold]{escape(model)}[/] …")
    from quire.config import make_config
    from quire.models.registry import is_native
    from quire.opening import open_with_context

    opened = open_with_context(make_config({"model": model, **settings}))
    try:
        for change in opened.context.changes:
            console.print(f"[dim]{escape(f'{change.field} = {change.value}: {change.reason}')}[/]")
        architecture = opened.context.spec.architecture
        if not is_native(architecture):
            console.print(f"[dim]{architecture} is not native: it runs through transformers' code[/]")
        selection, took = opened.context.selection, time.perf_counter() - started
        console.print(f"[dim]ready in {took:.1f} s on {escape(f'{selection.name} ({opened.context.device.name})')}[/]")
        yield opened
    finally:
        opened.engine.shutdown()


def sampling_params(engine: Engine, given: Mapping[str, Any], max_tokens: int, **more: Any) -> SamplingParams:
    """Return what was given, over the model's own defaults, over `max_tokens`. Raise RequestError."""
    from quire.sampling import SamplingParams

    return SamplingParams(**{"max_tokens": max_tokens, **engine.defaults.sampling, **more, **given})


def stream(engine: Engine) -> Iterator[RequestOutput]:
    """Yield outputs until no request is left. On Ctrl-C, end all requests between two steps and raise
    KeyboardInterrupt; the engine can go on afterwards."""
    from quire.interrupts import DeferredInterrupt

    try:
        with DeferredInterrupt() as interrupt:
            while engine.has_work:
                interrupt.check()
                yield from engine.step()
    finally:
        engine.abort_all()
        engine.drain()


class Summary(NamedTuple):
    """What a run of requests did. Times in seconds."""

    num_requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    seconds: float
    first_token_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.seconds if self.seconds else 0.0


class Meter:
    """Counts what passes by: delta outputs of one run."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: list[float] = []
        self._prompts: dict[str, tuple[int, int]] = {}
        self._output_tokens = 0

    def watch(self, output: RequestOutput) -> None:
        """Count one delta."""
        if output.request_id not in self._prompts and any(item.token_ids for item in output.outputs):
            metrics = output.metrics
            if metrics.first_token_time is not None:
                self._first.append(metrics.first_token_time - metrics.arrival_time)
            self._prompts[output.request_id] = (len(output.prompt_token_ids), output.num_cached_tokens)
        self._output_tokens += sum(len(item.token_ids) for item in output.outputs)

    def summary(self) -> Summary:
        """Return the counts so far. `first_token_s` is the median over requests."""
        prompts = self._prompts.values()
        first = sorted(self._first)
        return Summary(
            num_requests=len(prompts),
            prompt_tokens=sum(length for length, _ in prompts),
            cached_tokens=sum(cached for _, cached in prompts),
            output_tokens=self._output_tokens,
            seconds=time.perf_counter() - self._started,
            first_token_s=first[len(first) // 2] if first else 0.0,
        )


def failures(outputs: Sequence[RequestOutput]) -> list[str]:
    """Return the causes of completions that failed."""
    completions = [item for output in outputs for item in output.outputs]
    return [str(item.stop_reason) for item in completions if item.finish_reason == "error"]
