"""What a step costs the host: schedule and commit, measured against the null device.

The time is this thread's processor time, so that a busy machine does not count. Plans are made one step ahead, as an
engine with overlap does; requests end and others are admitted while it is measured, unless none are queued.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from quire.backend.null import NullExecutor, PendingStep
from quire.backend.null_options import NullOptions
from quire.config import EngineConfig
from quire.models.spec import ModelSpec
from quire.plan import StepPlan
from quire.sampling import SamplingParams
from quire.scheduling.request import Request
from quire.scheduling.scheduler import Scheduler

SPEC = ModelSpec(
    architecture="none",
    num_layers=1,
    hidden_size=64,
    intermediate_size=64,
    num_heads=1,
    num_kv_heads=1,
    head_dim=64,
    vocab_size=32_000,
    max_model_len=4096,
    dtype="bfloat16",
    num_parameters=0,
    windows=(None,),
)
PROMPT_LEN = 128
OUTPUT_LENS = (128, 1024)  # uniform: of 1,024 running requests about two end in each step
STEPS_AHEAD = 2


class Load(NamedTuple):
    num_running: int
    num_queued: int


LOADS = (Load(256, 0), Load(1024, 0), Load(1024, 10_000))


class SchedulerCost(NamedTuple):
    """Medians over steps in microseconds; `tokens_per_s` is all scheduled tokens over all time in schedule and commit;
    `add_us` is the mean for one request."""

    load: Load
    num_steps: int
    schedule_us: float
    commit_us: float
    step_us: float
    tokens_per_s: float
    add_us: float


def measure_all(num_steps: int = 300, seed: int = 0) -> Iterator[SchedulerCost]:
    """Yield the cost at each load."""
    for load in LOADS:
        yield measure(load, num_steps, seed)


def measure(load: Load, num_steps: int = 300, seed: int = 0) -> SchedulerCost:
    """Run a load until all rows decode, then measure `num_steps` steps."""
    bench = _Bench(load, seed)
    for _ in range(STEPS_AHEAD + 2):
        bench.step()
    bench.clear()
    for _ in range(num_steps):
        bench.step()
    return bench.report()


class _Bench:
    def __init__(self, load: Load, seed: int) -> None:
        self.load = load
        config = _config(load)
        self.executor = NullExecutor(config, SPEC, NullOptions(max_in_flight=STEPS_AHEAD))
        self.scheduler = Scheduler(config, self.executor.start())
        self.schedule_s: list[float] = []
        self.commit_s: list[float] = []
        self.num_tokens = 0
        self._in_flight: deque[tuple[StepPlan, PendingStep]] = deque()
        requests = list(_requests(load, seed))
        began = time.thread_time()
        for request in requests:
            self.scheduler.add(request)
        self.add_s = (time.thread_time() - began) / len(requests)

    def step(self) -> None:
        """Submit until enough steps are under way, then commit the oldest."""
        while len(self._in_flight) < STEPS_AHEAD:
            began = time.thread_time()
            plan = self.scheduler.schedule()
            self.schedule_s.append(time.thread_time() - began)
            assert plan is not None, "the load ended before the measurement; give longer outputs"
            self.num_tokens += plan.num_tokens
            self._in_flight.append((plan, self.executor.submit(plan)))
        plan, pending = self._in_flight.popleft()
        result = self.executor.collect(pending)
        began = time.thread_time()
        self.scheduler.commit(plan, result)
        self.commit_s.append(time.thread_time() - began)

    def clear(self) -> None:
        self.schedule_s.clear()
        self.commit_s.clear()
        self.num_tokens = 0

    def report(self) -> SchedulerCost:
        both = [schedule + commit for schedule, commit in zip(self.schedule_s, self.commit_s, strict=True)]
        return SchedulerCost(
            load=self.load,
            num_steps=len(both),
            schedule_us=statistics.median(self.schedule_s) * 1e6,
            commit_us=statistics.median(self.commit_s) * 1e6,
            step_us=statistics.median(both) * 1e6,
            tokens_per_s=self.num_tokens / sum(both),
            add_us=self.add_s * 1e6,
        )


def _config(load: Load) -> EngineConfig:
    longest = PROMPT_LEN + OUTPUT_LENS[1]
    return EngineConfig(
        model="none",
        max_num_seqs=load.num_running,
        max_num_batched_tokens=load.num_running * (PROMPT_LEN + 1),  # all can be admitted in the first step
        max_model_len=longest,
        block_size=16,
        num_blocks=load.num_running * (longest // 16 + 1),
    )


def _requests(load: Load, seed: int) -> Iterator[Request]:
    numbers = random.Random(seed)
    for index in range(load.num_running + load.num_queued):
        prompt_len = PROMPT_LEN - numbers.randrange(16)  # so that rows do not all need their next block at once
        yield Request(
            f"request-{index}",
            [numbers.randrange(SPEC.vocab_size) for _ in range(prompt_len)],
            SamplingParams(max_tokens=OUTPUT_LENS[1] if not load.num_queued else numbers.randint(*OUTPUT_LENS)),
            arrival=float(index),
            seed=index,
            eos_token_ids=frozenset({SPEC.vocab_size}),  # never sampled: the load has to last
        )
