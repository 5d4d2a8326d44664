"""The control plane on a null device that checks everything: one `Simulation` is an engine without text."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from quire.backend.contract import ScheduleConstraints
from quire.backend.null import NullExecutor
from quire.backend.null_options import NullOptions
from quire.config import EngineConfig
from quire.models.spec import ModelSpec
from quire.plan import StepPlan
from quire.sampling import SamplingParams
from quire.scheduling.commit import Progress
from quire.scheduling.recording import open_scheduler
from quire.scheduling.request import Request

SPEC = ModelSpec(
    architecture="none",
    num_layers=2,
    hidden_size=8,
    intermediate_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    vocab_size=997,
    max_model_len=4096,
    dtype="bfloat16",
    num_parameters=0,
    windows=(None, None),
)
DEVICE_OPTIONS = ScheduleConstraints.__dataclass_fields__.keys()


@dataclass
class Output:
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


class Simulation:
    """Scheduler and null device, stepped by hand. `depth` steps are under way at most; every slot read is verified."""

    def __init__(self, *, depth=1, rows=8, budget=64, num_blocks=64, block_size=4, max_model_len=200, **settings):
        device = {name: settings.pop(name) for name in list(settings) if name in DEVICE_OPTIONS}
        self.config = EngineConfig(
            model="none",
            max_num_seqs=rows,
            max_num_batched_tokens=budget,
            num_blocks=num_blocks,
            block_size=block_size,
            max_model_len=max_model_len,
            overlap=depth > 1,
            **{"watermark": 0.0, **settings},
        )
        self.executor = NullExecutor(self.config, SPEC, NullOptions(max_in_flight=depth, verify="full", **device))
        self.facts = self.executor.start()
        self.scheduler = open_scheduler(self.config, self.facts)
        self.plans: list[StepPlan] = []
        self.outputs: dict[str, Output] = {}
        self.progress: list[Progress] = []
        self.in_flight = deque()

    def add(self, prompt, *, request_id=None, max_tokens=8, seed=None, eos=(), **options):
        """Queue a request for a prompt given as tokens or as a length; parameters of sampling and request mixed."""
        known = {name: options.pop(name) for name in list(options) if name in SamplingParams.__struct_fields__}
        count = len(self.outputs)
        request_id = f"r{count}" if request_id is None else request_id
        token_ids = tokens(prompt, seed=count) if isinstance(prompt, int) else prompt
        request = Request(
            request_id,
            token_ids,
            SamplingParams(max_tokens=max_tokens, **known),
            arrival=options.pop("arrival", float(count)),
            seed=count if seed is None else seed,
            eos_token_ids=frozenset(eos),
            priority=known.get("priority", 0),
            **options,
        )
        self.scheduler.add(request)
        self.outputs[request_id] = Output()
        return request

    def schedule(self):
        """Submit one step, if there is one, and return its plan."""
        plan = self.scheduler.schedule()
        if plan is not None:
            self.plans.append(plan)
            self.in_flight.append((plan, self.executor.submit(plan)))
        return plan

    def commit(self, **changes):
        """Collect and commit the oldest step, with another result than the null device's where `changes` says so."""
        plan, ticket = self.in_flight.popleft()
        result = dataclasses.replace(self.executor.collect(ticket), **changes)
        progress = self.scheduler.commit(plan, result)
        self.scheduler.check_integrity()
        for item in progress:
            output = self.outputs[item.request.request_id]
            assert output.finish_reason is None, "an output goes on after its end"
            output.token_ids += item.new_token_ids
            output.finish_reason = item.finish_reason
        self.progress += progress
        return progress

    def step(self):
        """Put steps under way and commit the oldest."""
        while len(self.in_flight) < self.facts.max_in_flight and self.schedule() is not None:
            pass
        assert self.in_flight or not self.scheduler.has_work, "requests wait and nothing can run"
        return self.commit() if self.in_flight else []

    def run(self):
        """Step until nothing is left; every block must be free then."""
        while self.scheduler.has_work or self.in_flight:
            self.step()
        assert self.scheduler.pool.num_used == 0
        return self.outputs


def tokens(count, seed=0):
    numbers = random.Random(seed)
    return [numbers.randrange(SPEC.vocab_size) for _ in range(count)]


@pytest.fixture(scope="session")
def simulate():
    return Simulation


@pytest.fixture(scope="session")
def make_tokens():
    return tokens


@pytest.fixture(scope="session")
def spec():
    return SPEC
