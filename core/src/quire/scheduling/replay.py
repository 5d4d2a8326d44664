"""Make the calls of a recording to a new scheduler, without a device, and say where it decides otherwise.

The scheduler is deterministic: the same calls must give the same plans. Where they do not, the report names the step
and the fields of the plan that differ. See `quire.scheduling.recording` for the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from quire.backend.contract import ExecutorFacts
from quire.config import EngineConfig
from quire.errors import RecordingError, RequestError
from quire.plan import StepPlan, StepResult, TokenLogprobs
from quire.scheduling.recording import (
    FORMAT,
    NO_HASH,
    Arrival,
    Committed,
    Ending,
    Header,
    Line,
    Planned,
    Reset,
    describe,
)
from quire.scheduling.request import Request
from quire.scheduling.scheduler import Scheduler

UNKNOWN_LOGPROB = TokenLogprobs(np.zeros(1, np.int32), np.zeros(1, np.float32), 1)  # no decision depends on its value


class Divergence(NamedTuple):
    """Where a replay first decides otherwise: line of the recording, step, and the fields that differ."""

    line: int
    step: int
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.line}: step {self.step} differs in {', '.join(self.fields)}"


class ReplayReport(NamedTuple):
    """`plan_hash` is the hash of all plans up to the end, or to the divergence."""

    num_requests: int
    num_steps: int
    plan_hash: str
    divergence: Divergence | None


def replay(path: str | Path) -> ReplayReport:
    """Make the recorded calls to a new scheduler; stop where it decides otherwise. Raise RecordingError."""
    lines = _read(Path(path))
    _, header = next(lines, (0, None))
    if not isinstance(header, Header) or header.format != FORMAT:
        raise RecordingError(f"{path} does not begin as a recording of format {FORMAT} does; record it again")
    replayer = Replayer(dataclasses.replace(header.config, record=None), header.facts)
    for number, line in lines:
        fields = replayer.apply(line)
        if fields:
            return replayer.report(Divergence(number, replayer.num_steps, fields))
    return replayer.report(None)


class Replayer:
    """Makes recorded calls, one by one."""

    def __init__(self, config: EngineConfig, facts: ExecutorFacts) -> None:
        self.scheduler = Scheduler(config, facts)
        self.num_requests = 0
        self.num_steps = 0
        self._hash = NO_HASH
        self._plans: dict[int, StepPlan] = {}

    def apply(self, line: Line) -> tuple[str, ...]:
        """Make one call; return the names of what came out otherwise."""
        match line:
            case Arrival():
                return self._add(line)
            case Ending():
                self.scheduler.finish(line.request_id, line.reason)
            case Reset():
                self.scheduler.reset_prefix_cache()
            case Planned():
                return self._schedule(line)
            case Committed():
                return self._commit(line)
            case Header():
                raise RecordingError("a recording has one header; this one has a second")
        return ()

    def report(self, divergence: Divergence | None) -> ReplayReport:
        return ReplayReport(self.num_requests, self.num_steps, self._hash, divergence)

    def _add(self, line: Arrival) -> tuple[str, ...]:
        self.num_requests += 1
        refused = None
        try:
            self.scheduler.add(_request(line))
        except RequestError as error:
            refused = type(error).__name__
        return () if refused == line.refused else (f"refusal of {line.request_id}",)

    def _schedule(self, line: Planned) -> tuple[str, ...]:
        plan = self.scheduler.schedule()
        planned = describe(plan, self._hash)
        self._hash = planned.hash
        if planned.digests is None or line.digests is None:
            return () if planned.digests == line.digests else ("whether anything runs",)
        different = tuple(name for name, digest in line.digests.items() if planned.digests.get(name) != digest)
        if plan is not None and not different:
            self._plans[plan.step] = plan
            self.num_steps += 1
        return different

    def _commit(self, line: Committed) -> tuple[str, ...]:
        self.scheduler.commit(self._plans.pop(line.step), _result(line))
        return ()


def _read(path: Path) -> Iterator[tuple[int, Line]]:
    decoder = msgspec.json.Decoder(Line)
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                yield number, decoder.decode(text)
            except msgspec.DecodeError as error:
                raise RecordingError(
                    f"{path}, line {number}: {error}; give a file that --record wrote, whole"
                ) from error


def _request(line: Arrival) -> Request:
    return Request(
        line.request_id,
        line.prompt_token_ids,
        line.params,
        arrival=line.arrival,
        seed=line.seed,
        eos_token_ids=frozenset(line.eos_token_ids),
        priority=line.priority,
        lora_id=line.lora_id,
        cache_salt=line.cache_salt,
        group=line.group,
        bad_word_ids=tuple(line.bad_word_ids),
        pooling=line.pooling,
    )


def _result(line: Committed) -> StepResult:
    return StepResult(
        step=line.step,
        token_ids=line.token_ids,
        prompt_logprobs={index: (UNKNOWN_LOGPROB,) * count for index, count in line.num_prompt_logprobs.items()},
        embeddings={index: np.zeros(1, np.float32) for index in line.embeddings},
        errors=line.errors,
    )
