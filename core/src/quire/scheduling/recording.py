"""Write down what a scheduler is told and what it decides, to `replay` it without a device.

A recording is JSON lines: a header with config and facts, then calls in order: arrivals with token ids, ends asked for
from outside, plans as digests of their fields, step results. `config.record` turns it on; off, it costs nothing,
because the recording scheduler is another class.
"""

from __future__ import annotations

import dataclasses
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from quire.backend.contract import ExecutorFacts
from quire.config import EngineConfig
from quire.errors import RequestError
from quire.plan import NewRow, StepPlan, StepResult
from quire.sampling import SamplingParams
from quire.scheduling.commit import Progress
from quire.scheduling.request import Request
from quire.scheduling.scheduler import Scheduler

FORMAT = 1
NO_HASH = ""


# -- lines -------------------------------------------------------------------------------------------------------------


class Header(msgspec.Struct, frozen=True, tag="header", tag_field="kind"):
    format: int
    config: EngineConfig
    facts: ExecutorFacts


class Arrival(msgspec.Struct, frozen=True, tag="add", tag_field="kind"):
    """A request; `refused` is the class of the error that it met."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    arrival: float
    seed: int
    eos_token_ids: list[int]
    priority: int
    lora_id: int
    cache_salt: str
    group: str | None
    bad_word_ids: list[tuple[int, ...]]
    pooling: str
    refused: str | None = None


class Ending(msgspec.Struct, frozen=True, tag="finish", tag_field="kind"):
    request_id: str
    reason: str


class Reset(msgspec.Struct, frozen=True, tag="reset_prefix_cache", tag_field="kind"):
    pass


class Planned(msgspec.Struct, frozen=True, tag="schedule", tag_field="kind"):
    """A plan by the digests of its fields, none if nothing could run; `hash` runs over all plans so far."""

    digests: dict[str, str] | None
    hash: str


class Committed(msgspec.Struct, frozen=True, tag="commit", tag_field="kind"):
    """A step's result, as far as decisions depend on it. Dictionaries are keyed by index into the plan's rows."""

    step: int
    token_ids: tuple[tuple[int, ...], ...]
    num_prompt_logprobs: dict[int, int] = {}
    embeddings: list[int] = []
    errors: dict[int, str] = {}


Line = Header | Arrival | Ending | Reset | Planned | Committed


# -- recording ---------------------------------------------------------------------------------------------------------


def open_scheduler(config: EngineConfig, facts: ExecutorFacts) -> Scheduler:
    """Return a scheduler, one that records if `config.record` names a file."""
    if config.record is None:
        return Scheduler(config, facts)
    return RecordingScheduler(config, facts, Path(config.record))


class Recorder:
    """Writes lines, each at once, so that a recording survives a crash. Raise OSError if it cannot."""

    def __init__(self, path: Path) -> None:
        self._encoder = msgspec.json.Encoder()
        self._file: IO[bytes] = path.open("wb", buffering=0)
        self._hash = NO_HASH

    def write(self, line: Line) -> None:
        self._file.write(self._encoder.encode(line) + b"\n")

    def write_plan(self, plan: StepPlan | None) -> None:
        planned = describe(plan, self._hash)
        self._hash = planned.hash
        self.write(planned)

    def close(self) -> None:
        self._file.close()


class RecordingScheduler(Scheduler):
    """A scheduler that writes down every call that matters."""

    def __init__(self, config: EngineConfig, facts: ExecutorFacts, path: Path) -> None:
        super().__init__(config, facts)
        self.recorder = Recorder(path)
        self.recorder.write(Header(FORMAT, config, facts))

    def add(self, request: Request) -> None:
        """Take a request, and write it down with its refusal, if it is refused."""
        arrival = _arrival(request)
        try:
            super().add(request)
        except RequestError as error:
            self.recorder.write(msgspec.structs.replace(arrival, refused=type(error).__name__))
            raise
        self.recorder.write(arrival)

    def finish(self, request_id: str, reason: str) -> Request | None:
        """End a request, and write that down."""
        self.recorder.write(Ending(request_id, reason))
        return super().finish(request_id, reason)

    def reset_prefix_cache(self) -> int:
        """Forget all cached prefixes, and write that down."""
        self.recorder.write(Reset())
        return super().reset_prefix_cache()

    def schedule(self) -> StepPlan | None:
        """Plan a step, and write down its digests."""
        plan = super().schedule()
        self.recorder.write_plan(plan)
        return plan

    def commit(self, plan: StepPlan, result: StepResult) -> list[Progress]:
        """Write down a result, and commit it."""
        self.recorder.write(_committed(plan, result))
        return super().commit(plan, result)

    def close(self) -> None:
        """Close the file."""
        self.recorder.close()


def describe(plan: StepPlan | None, running_hash: str) -> Planned:
    """Return a plan's digests and the hash of all plans up to it."""
    if plan is None:
        return Planned(None, running_hash)
    digests = {item.name: _digest(getattr(plan, item.name)) for item in dataclasses.fields(plan)}
    return Planned(digests, _digest([running_hash, *digests.values()]))


def _digest(value: Any) -> str:
    return blake2b(msgspec.json.encode(value, enc_hook=_plain), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, NewRow):
        return dataclasses.asdict(value)
    raise TypeError(f"a plan holds a {type(value).__name__}, which has no digest")


def _arrival(request: Request) -> Arrival:
    return Arrival(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        params=request.params,
        arrival=request.arrival,
        seed=request.seed,
        eos_token_ids=sorted(request.eos_token_ids),
        priority=request.priority,
        lora_id=request.lora_id,
        cache_salt=request.cache_salt,
        group=request.group,
        bad_word_ids=list(request.bad_word_ids),
        pooling=request.pooling,
    )


def _committed(plan: StepPlan, result: StepResult) -> Committed:
    return Committed(
        step=plan.step,
        token_ids=result.token_ids,
        num_prompt_logprobs={index: len(found) for index, found in result.prompt_logprobs.items()},
        embeddings=list(result.embeddings),
        errors=result.errors,
    )
