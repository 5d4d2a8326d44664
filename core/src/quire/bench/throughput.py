"""`quire bench throughput`: the workload on Quire, the machine's limits beside it, and a peer if one is named."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from quire.bench import machine, process
from quire.bench.engine_run import open_for_bench, run_workload
from quire.bench.memory import MemoryFigures, memory_figures
from quire.bench.shapes import BenchModel
from quire.bench.workload import Workload, make_prompt, make_workload
from quire.execution.memory import DTYPE_BYTES, choose_dtype
from quire.opening import OpenedEngine

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured. Seconds, bytes, tokens a second; a limit is None for models whose cost is not known."""

    model: str
    backend: str
    device: str
    dtype: str
    threads: int
    num_requests: int
    prompt_tokens: int
    output_tokens: int
    seconds: tuple[float, ...]
    first_token_s: float
    peak_memory_bytes: int
    others_cores: float | None
    memory: MemoryFigures | None
    kv_waste: float
    num_preemptions: int
    gflops: float
    read_gb_per_s: float
    limit_tokens_per_s: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / statistics.median(self.seconds)

    @property
    def share_of_limit(self) -> float | None:
        return self.tokens_per_s / self.limit_tokens_per_s if self.limit_tokens_per_s else None


def measure_throughput(
    model: BenchModel, settings: Mapping[str, Any], repetitions: int, num_requests: int, report: Report
) -> Throughput:
    """Run the workload `repetitions` times, then measure the machine. `report` is told what is going on."""
    with open_for_bench(model, settings) as opened:
        vocab_size = opened.context.spec.vocab_size
        workloads = [make_workload(number, num_requests, vocab_size) for number in range(repetitions)]
        run_workload(opened.engine, Workload([make_prompt(1, vocab_size=vocab_size)], [1]))
        first_token_s = process.since_start()
        report(f"first token {first_token_s:.1f} s after the process was started")
        with process.OthersMeter() as others:
            seconds = [_run_reported(opened, item, number, report) for number, item in enumerate(workloads)]
        observed = Observed(tuple(seconds), first_token_s, process.peak_memory_bytes(), others.cores)
        return _finish(model, opened, workloads[0], observed)


class Observed(NamedTuple):
    """What clocks and counters said of the runs."""

    seconds: tuple[float, ...]
    first_token_s: float
    peak_memory_bytes: int
    others_cores: float | None


def _run_reported(opened: OpenedEngine, workload: Workload, number: int, report: Report) -> float:
    seconds = run_workload(opened.engine, workload)
    report(f"repetition {number + 1}: {workload.output_tokens / seconds:.1f} tok/s out ({seconds:.1f} s)")
    return seconds


def _finish(model: BenchModel, opened: OpenedEngine, workload: Workload, observed: Observed) -> Throughput:
    context, stats = opened.context, opened.engine.stats()
    dtype = choose_dtype(context.config.dtype, context.spec.dtype, context.caps.dtypes)
    limits = machine.measure_machine()
    cost = machine.model_cost(model.path, context.spec, DTYPE_BYTES[dtype])
    tokens = workload.prompt_tokens, workload.output_tokens
    return Throughput(
        model=model.name,
        backend=context.selection.name,
        device=context.device.name,
        dtype=dtype,
        threads=torch.get_num_threads(),
        num_requests=len(workload.prompts),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        **observed._asdict(),
        memory=memory_figures(opened),
        kv_waste=stats.kv_waste,
        num_preemptions=stats.num_preemptions,
        gflops=limits.flops / 1e9,
        read_gb_per_s=limits.read_bytes / 1e9,
        limit_tokens_per_s=machine.throughput_limit(limits, cost, *tokens) if cost else None,
    )
