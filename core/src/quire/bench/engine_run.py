"""Run token-id requests of exact lengths on an engine, and time them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from quire.bench.shapes import BenchModel
from quire.bench.workload import Workload
from quire.config import make_config
from quire.engine import Engine
from quire.opening import OpenedEngine, open_with_context
from quire.outputs import RequestOutput
from quire.sampling import OutputKind, SamplingParams

DEFAULTS: Mapping[str, Any] = {"max_model_len": 1024, "max_num_seqs": 64}
"""What peers are given too; the user's own settings go before them."""

OnStep = Callable[[int], None]
"""Told after each step how many requests have finished."""


@contextmanager
def open_for_bench(model: BenchModel, settings: Mapping[str, Any]) -> Iterator[OpenedEngine]:
    """Open an engine on a bench model, for as long as the context lasts. Raise ConfigError, BackendError, ModelError,
    CapacityError."""
    made_up = {"load_format": "dummy"} if model.dummy else {}
    opened = open_with_context(make_config({**DEFAULTS, **made_up, **settings, "model": str(model.path)}))
    try:
        yield opened
    finally:
        opened.engine.shutdown()


def run_workload(engine: Engine, workload: Workload, on_step: OnStep = lambda finished: None) -> float:
    """Run all requests at once and return the seconds they took. Raise RequestError; assert that lengths are exact."""
    started = time.perf_counter()
    for number, (prompt, length) in enumerate(zip(workload.prompts, workload.output_lengths, strict=True)):
        engine.add(f"bench-{number}", prompt, exact(length))
    finished = 0
    while engine.has_work:
        finished += sum(_check(output, workload) for output in engine.step())
        on_step(finished)
    assert finished == len(workload.prompts), f"{finished} of {len(workload.prompts)} requests finished"
    return time.perf_counter() - started


def exact(num_tokens: int) -> SamplingParams:
    """Return parameters for exactly so many greedy tokens and no text."""
    return SamplingParams(
        temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False, output_kind=OutputKind.FINAL_ONLY
    )


def _check(output: RequestOutput, workload: Workload) -> bool:
    wanted = workload.output_lengths[int(output.request_id.rpartition("-")[2])]
    (completion,) = output.outputs
    assert completion.finish_reason == "length", f"{output.request_id}: {completion.finish_reason}"
    assert len(completion.token_ids) == wanted, f"{output.request_id}: {len(completion.token_ids)} tokens, not {wanted}"
    return True
