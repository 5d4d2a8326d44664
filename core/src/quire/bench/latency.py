"""`quire bench latency`: one request alone: time to its first token, and how fast it goes on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from quire.bench import machine
from quire.bench.engine_run import open_for_bench, run_workload
from quire.bench.process import OthersMeter
from quire.bench.shapes import BenchModel
from quire.bench.workload import Workload, make_prompt
from quire.execution.memory import DTYPE_BYTES, choose_dtype

DECODE_TOKENS = 129


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians: a prompt's first token, then tokens a second, beside what reading the weights allows."""

    model: str
    backend: str
    device: str
    dtype: str
    threads: int
    prompt_tokens: int
    first_token_s: float
    decode_tokens_per_s: float
    others_cores: float | None
    read_gb_per_s: float
    limit_tokens_per_s: float | None

    @property
    def share_of_limit(self) -> float | None:
        return self.decode_tokens_per_s / self.limit_tokens_per_s if self.limit_tokens_per_s else None


def measure_latency(model: BenchModel, settings: Mapping[str, Any], repetitions: int, prompt_tokens: int) -> Latency:
    """Time one token, then many, of single requests; what one token takes is taken off the many."""
    with open_for_bench(model, settings) as opened:
        context = opened.context

        def timed(seed: int, num_tokens: int) -> float:
            prompt = make_prompt(seed, prompt_tokens, context.spec.vocab_size)
            return run_workload(opened.engine, Workload([prompt], [num_tokens]))

        timed(1, 8)
        with OthersMeter() as others:
            first = statistics.median(timed(100 + number, 1) for number in range(repetitions))
            whole = statistics.median(timed(200 + number, DECODE_TOKENS) for number in range(repetitions))
        dtype = choose_dtype(context.config.dtype, context.spec.dtype, context.caps.dtypes)
        limits = machine.measure_machine()
        cost = machine.model_cost(model.path, context.spec, DTYPE_BYTES[dtype])
        return Latency(
            model=model.name,
            backend=context.selection.name,
            device=context.device.name,
            dtype=dtype,
            threads=torch.get_num_threads(),
            prompt_tokens=prompt_tokens,
            first_token_s=first,
            decode_tokens_per_s=(DECODE_TOKENS - 1) / (whole - first),
            others_cores=others.cores,
            read_gb_per_s=limits.read_bytes / 1e9,
            limit_tokens_per_s=machine.decode_limit(limits, cost) if cost else None,
        )
