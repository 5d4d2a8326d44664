"""The null backend: every plan is checked and timed, none is computed.

Token ids are drawn from (seed, position) alone, so a request's output does not depend on how it was scheduled: this
makes it the scheduler's oracle, and lets one simulate thousands of requests on a small machine. It needs a model's
config and no weights, and no torch. Options: see `NullOptions`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quire.backend.contract import (
    BackendCaps,
    ConformanceProfile,
    Device,
    Executor,
    ExecutorContext,
    ExecutorFacts,
    GraphLevel,
    KVConstraints,
    MemoryInfo,
    MemoryModel,
    Selection,
    ShapeMode,
)
from quire.backend.hookspecs import hookimpl
from quire.backend.null_device import NullDevice
from quire.backend.null_options import NullOptions, parse_options
from quire.config import EngineConfig
from quire.errors import BackendError, CapacityError
from quire.models.spec import ModelSpec
from quire.plan import Float32s, Int32s, StepPlan, StepResult
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16", "float32")
KV_DTYPE_BYTES = 2
BLOCK_SIZES = (16, 32, 64, 128, 256, 8, 4, 2, 1)
FEATURES = frozenset({"chunked_prefill", "prefix_cache", "block_copy", "sliding_window", "soft_cap", "sinks", "moe"})
"""What accounting is true for: any model, since none is computed."""
REFUSED = ("logprobs", "prompt_logprobs", "structured_outputs", "logit_bias", "allowed_token_ids", "bad_words")
PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}


class NullBackend:
    """The hooks."""

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Claim what accounting can prove. Raise ConfigError on an option that does not exist."""
        options = parse_options(selection.options)
        return BackendCaps(
            device_type="cpu",
            dtypes=DTYPES,
            kv_dtypes=DTYPES,
            memory=MemoryModel.UNIFIED,
            shapes=ShapeMode.BUCKETED if options.token_buckets else ShapeMode.DYNAMIC,
            graphs=GraphLevel.NONE,
            max_in_flight=options.max_in_flight,
            features=FEATURES,
            deterministic=True,
            schedule=options.schedule,
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Return a device that holds no bytes."""
        return NoDevice()

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        """Allow any block size; the list ends somewhere."""
        return KVConstraints(block_sizes=BLOCK_SIZES, dtypes=DTYPES)

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        """There are no bytes and no numbers: the manifest and the contract are what can be checked."""
        return ConformanceProfile(levels=(0, 1), support="simulation")

    @hookimpl
    def quire_validate_request(self, params: SamplingParams) -> list[str]:
        """Refuse what needs logits: there are none."""
        asked = [name for name in REFUSED if getattr(params, name) not in (None, (), {})]
        asked += [name for name, neutral in PENALTIES.items() if getattr(params, name) != neutral]
        return [f"{name} needs logits, and the null backend computes none" for name in asked]

    @hookimpl
    def quire_create_executor(self, context: ExecutorContext) -> Executor:
        """Return the executor that checks and times plans."""
        return NullExecutor(context.config, context.spec, parse_options(context.selection.options))


class NoDevice:
    """A device without bytes: whoever wants to move some is told so."""

    name = "null"
    torch_device: torch.device = None  # there is none, and torch is not imported for it

    def synchronize(self) -> None:
        """Return at once: nothing is computed."""

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(0, 0)

    def seed(self, seed: int) -> None:
        """Do nothing: draws depend on the requests' seeds alone."""

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> Any:
        raise BackendError(NO_BYTES)

    def to_device(self, source: Any, target: Any) -> None:
        raise BackendError(NO_BYTES)

    def to_host(self, source: Any) -> Any:
        raise BackendError(NO_BYTES)


NO_BYTES = "the null backend holds no bytes; choose another backend to compute"


class PendingStep(NamedTuple):
    """A step under way: its answer, and when the simulated device has it (seconds of the monotonic clock)."""

    result: StepResult
    ready: float


class NullExecutor:
    """Checks plans on a `NullDevice` and answers when the latency model says. Raise BackendError on a wrong plan."""

    def __init__(self, config: EngineConfig, spec: ModelSpec, options: NullOptions) -> None:
        self.config = config
        self.spec = spec
        self.options = options
        self.facts = plan_facts(config, spec, options)
        self.device: NullDevice | None = None
        self._under_way: deque[PendingStep] = deque()
        self._busy_until = 0.0

    def start(self) -> ExecutorFacts:
        """Make the bookkeeping; there is nothing to load."""
        self.device = NullDevice(self.facts, self.spec.vocab_size, self.options.verify == "full")
        return self.facts

    def submit(self, plan: StepPlan) -> PendingStep:
        """Check a plan and begin its simulated time."""
        assert self.device is not None, "the executor is used before start() or after stop()"
        if len(self._under_way) >= self.facts.max_in_flight:
            raise BackendError(
                f"step {plan.step} is one more than the {self.facts.max_in_flight} that may be under way"
            )
        tokens = self.device.apply(plan)
        result = StepResult(plan.step, _sampled(plan, tokens), embeddings=self._embeddings(plan))
        self._busy_until = max(self._busy_until, time.perf_counter()) + self._step_seconds(plan)
        pending = PendingStep(result, self._busy_until)
        self._under_way.append(pending)
        return pending

    def collect(self, ticket: PendingStep) -> StepResult:
        """Wait until the simulated device has it."""
        if not self._under_way or self._under_way.popleft() is not ticket:
            raise BackendError(f"step {ticket.result.step} is collected out of order")
        if (wait := ticket.ready - time.perf_counter()) > 0:
            time.sleep(wait)
        return ticket.result

    def read_kv(self, layer: int, block_ids: Sequence[int]) -> tuple[Any, Any]:
        """Raise BackendError: there are no bytes."""
        raise BackendError(NO_BYTES)

    def memory_report(self) -> Mapping[str, int]:
        """Return the bytes that a real device would hold."""
        block_bytes = self.facts.block_size * self.spec.kv_bytes_per_token(KV_DTYPE_BYTES)
        weights = self.spec.num_parameters * KV_DTYPE_BYTES
        return {"weights": weights, "kv": self.facts.num_blocks * block_bytes, "workspace": 0}

    def stop(self) -> None:
        self._under_way.clear()
        self.device = None

    def _step_seconds(self, plan: StepPlan) -> float:
        options = self.options
        return (options.step_us + options.row_us * len(plan.rows) + options.token_us * plan.num_tokens) * 1e-6

    def _embeddings(self, plan: StepPlan) -> dict[int, Float32s]:
        """Answer rows that want a pooled state with zeros, once their prompt is done: there are no hidden states."""
        assert self.device is not None, "called from submit"
        seats, ends = self.device.seats, plan.starts + plan.counts
        unsampled = (~plan.samples).nonzero()[0].tolist()
        done = [i for i in unsampled if (seat := seats[int(plan.rows[i])]).pooling and ends[i] == seat.prompt_len]
        return {index: np.zeros(self.spec.hidden_size, np.float32) for index in done}


def plan_facts(config: EngineConfig, spec: ModelSpec, options: NullOptions) -> ExecutorFacts:
    """Return what the engine may schedule: the config's blocks, or what the memory holds. Raise CapacityError."""
    block_size = config.block_size or BLOCK_SIZES[0]
    max_model_len = config.max_model_len or spec.max_model_len
    memory_bytes = config.memory_bytes or int(options.memory_gib * config.memory_utilization * 2**30)
    affordable = memory_bytes // (block_size * spec.kv_bytes_per_token(KV_DTYPE_BYTES))
    usable = config.max_num_seqs * -(-max_model_len // block_size)
    num_blocks = config.num_blocks or min(affordable, usable)
    if num_blocks < 1:
        raise CapacityError(f"{memory_bytes} bytes hold no KV block of {block_size} tokens; give more memory_bytes")
    return ExecutorFacts(
        num_blocks=num_blocks,
        block_size=block_size,
        reserved_blocks=0,
        max_rows=config.max_num_seqs,
        max_model_len=max_model_len,
        schedule=options.schedule,
        max_in_flight=options.max_in_flight if config.overlap else 1,
    )


def _sampled(plan: StepPlan, tokens: Int32s) -> tuple[tuple[int, ...], ...]:
    """Return each row's new tokens: one, or none."""
    single = zip(tokens.tolist(), strict=True)
    if plan.samples.all():
        return tuple(single)
    return tuple(token if samples else () for token, samples in zip(single, plan.samples.tolist(), strict=True))


PLUGIN = NullBackend()
