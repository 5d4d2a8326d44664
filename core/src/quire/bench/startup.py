"""`quire bench startup`: where the time goes between starting the process and the first token, stage by stage."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from quire.bench import process
from quire.bench.shapes import BenchModel


class Stage(NamedTuple):
    """One stage and the seconds it took."""

    name: str
    seconds: float


class Stopwatch:
    """Notes a stage each time it is told that one has ended; the first began with the process."""

    def __init__(self) -> None:
        self.stages = [Stage("start Python, read the command", process.since_start())]
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.stages.append(Stage(name, now - self._last))
        self._last = now


def measure_startup(model: BenchModel, settings: Mapping[str, Any]) -> list[Stage]:
    """Open an engine step by step as `quire.opening` does, generate one token, and return how long each stage took.

    This must be the first thing that the process does: what is imported already costs nothing any more.
    """
    watch = Stopwatch()
    importlib.import_module("torch")
    watch.lap("import torch")
    importlib.import_module("quire.execution.torch_executor")
    importlib.import_module("quire.models.decoder")
    importlib.import_module("quire.opening")
    watch.lap("import quire")
    return _open(model, settings, watch)


def _open(model: BenchModel, settings: Mapping[str, Any], watch: Stopwatch) -> list[Stage]:
    from quire.backend.manager import build_executor
    from quire.bench.engine_run import DEFAULTS, run_workload
    from quire.bench.workload import Workload, make_prompt
    from quire.config import make_config
    from quire.opening import start_engine

    made_up = {"load_format": "dummy"} if model.dummy else {}
    config = make_config({**DEFAULTS, **made_up, **settings, "model": str(model.path)})
    built = build_executor(config)
    watch.lap("choose and open the backend, resolve kernels")
    engine = start_engine(built.executor, built.context)
    watch.lap("weights, KV cache, programs, tokenizer")
    try:
        prompt = make_prompt(1, vocab_size=built.context.spec.vocab_size)
        run_workload(engine, Workload([prompt], [1]))
        watch.lap("first token of a prompt of 32")
        run_workload(engine, Workload([prompt], [1]))
        watch.lap("the same once more")
    finally:
        engine.shutdown()
    return watch.stages
