"""Engine: admit → schedule → submit → collect → commit → text, one step at a time, on one thread.

With `facts.max_in_flight` 1 a step is submitted and collected; with 2 the next step is submitted before the last one is
collected, so that the device works while the host turns tokens into text. It is the same loop: as many steps are put
under way as may be, then the oldest is collected. Both give the same tokens.

A row that fails fails its request alone; an executor that raises ends the engine, and everybody learns the cause.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from quire.backend.contract import Executor, ExecutorFacts
from quire.completion import Completion
from quire.config import EngineConfig
from quire.errors import BackendError, EngineDeadError, RequestError
from quire.execution.executor import SuspendableExecutor
from quire.intake import Admitted, Intake, Pooling, Prompt, PromptLike
from quire.outputs import RequestOutput
from quire.plan import StepPlan
from quire.responses import Response
from quire.sampling import SamplingParams
from quire.scheduling.commit import Progress
from quire.scheduling.recording import open_scheduler
from quire.scheduling.request import Request
from quire.scheduling.stats import SchedulerStats
from quire.text.generation_config import NO_DEFAULTS, GenerationDefaults
from quire.text.tokenizer import Tokenizer

SEED_MASK = 2**64 - 1
MAX_TOKEN_ID = 2**31 - 1  # token ids are int32 in plans


class Flight(NamedTuple):
    """A step under way."""

    plan: StepPlan
    ticket: Any


class Seat(NamedTuple):
    """Where the tokens of one scheduled sequence go."""

    response: Response
    completion: Completion


def _no_reasons(params: SamplingParams) -> Sequence[str]:
    return ()


class Engine:
    """Runs requests on a started executor. Not thread-safe: one thread calls it; `AsyncLLM` gives it one.

    `tokenizer` None: prompts are token ids, outputs have no text. `validate` returns the backend's reasons to refuse a
    request. `clock` gives the seconds that outputs carry.
    """

    def __init__(
        self,
        executor: Executor,
        facts: ExecutorFacts,
        config: EngineConfig,
        tokenizer: Tokenizer | None = None,
        *,
        vocab_size: int | None = None,
        defaults: GenerationDefaults = NO_DEFAULTS,
        validate: Callable[[SamplingParams], Sequence[str]] = _no_reasons,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.executor = executor
        self.facts = facts
        self.config = config
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.scheduler = open_scheduler(config, facts)
        self.intake = Intake(
            max_model_len=self.scheduler.max_model_len,
            max_logprobs=config.max_logprobs,
            vocab_size=MAX_TOKEN_ID if vocab_size is None else vocab_size,
            tokenizer=tokenizer,
            validate=validate,
        )
        self.death: EngineDeadError | None = None
        self.is_paused = False  # nothing is scheduled: steps under way are collected, requests wait where they are
        self.is_asleep = False
        self._is_shut_down = False
        self._clock = clock
        self._seeds = random.Random(config.seed)
        self._responses: dict[str, Response] = {}
        self._seats: dict[str, Seat] = {}  # by the scheduler's request id
        self._in_flight: deque[Flight] = deque()

    # -- requests ------------------------------------------------------------------------------------------------------

    def admit(self, request_id: str, prompt: PromptLike | Prompt, params: SamplingParams | None = None) -> Admitted:
        """Read and check a request without queueing it. Raise RequestError. Thread: any."""
        prompt = self.intake.read_prompt(prompt)
        params = self.default_params(prompt) if params is None else params
        return self.intake.admit(request_id, prompt, params, self._clock())

    def default_params(self, prompt: Prompt) -> SamplingParams:
        """Return the model's own parameters, with no more tokens than `max_model_len` leaves room for."""
        params = self.defaults.sampling_params()
        room = max(self.scheduler.max_model_len - len(prompt.token_ids), 1)
        return msgspec.structs.replace(params, max_tokens=min(params.max_tokens or room, room))

    def admit_embedding(self, request_id: str, prompt: PromptLike | Prompt, pooling: Pooling = "last") -> Admitted:
        """Read and check a request for an embedding, as `admit` does. Thread: any."""
        return self.intake.admit_embedding(request_id, prompt, pooling, self._clock())

    def add(self, request_id: str, prompt: PromptLike | Prompt, params: SamplingParams | None = None) -> None:
        """Check and queue a request. Raise RequestError, QueueFullError, EngineDeadError."""
        self.enqueue(self.admit(request_id, prompt, params))

    def enqueue(self, admitted: Admitted) -> None:
        """Queue an admitted request; all of its `n` sequences or none. Raise as `add` does."""
        self._check_alive()
        if admitted.request_id in self._responses:
            raise RequestError(f"request id {admitted.request_id!r} is in use; choose another", param="request_id")
        response = Response(admitted, self.tokenizer)
        requests = self._make_requests(admitted)
        for count, request in enumerate(requests):
            try:
                self.scheduler.add(request)
            except RequestError:
                for earlier in requests[:count]:
                    self.scheduler.abort(earlier.request_id)
                raise
        self._responses[admitted.request_id] = response
        for request, completion in zip(requests, response.completions, strict=True):
            self._seats[request.request_id] = Seat(response, completion)

    def abort(self, request_id: str) -> bool:
        """End a request without an output; its blocks are free at once. Return whether it was there."""
        response = self._responses.pop(request_id, None)
        if response is None:
            return False
        for completion in response.completions:
            key = sequence_id(request_id, completion.index, len(response.completions))
            if self._seats.pop(key, None) is not None:
                self.scheduler.abort(key)
        return True

    def abort_all(self) -> list[str]:
        """End every request; return their ids."""
        request_ids = list(self._responses)
        for request_id in request_ids:
            self.abort(request_id)
        return request_ids

    # -- steps ---------------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do; steps under way count, so that the executor comes to rest."""
        return bool(self._in_flight) or (self.scheduler.has_work and not self._is_resting)

    def step(self) -> list[RequestOutput]:
        """Put steps under way, collect the oldest, return its news. Raise EngineDeadError when the executor fails."""
        self._check_alive()
        with self._dying_of_errors():
            self._submit()
            return self._collect() if self._in_flight else []

    def drain(self) -> None:
        """Collect the steps under way, so that the executor is at rest. Their news is lost. Raise as `step` does."""
        with self._dying_of_errors():
            while self._in_flight and self.death is None:
                self._collect()

    def sleep(self) -> int:
        """Give back the memory of weights (saved on the host) and KV (lost) until `wake`; return the bytes.

        Requests that come meanwhile wait. Raise RequestError while there are some, BackendError where the backend
        cannot.
        """
        if not isinstance(self.executor, SuspendableExecutor):
            raise BackendError("this backend's executor cannot give its memory back; stop the engine instead")
        if self.is_asleep:
            return 0
        if self.scheduler.has_work:
            stats = self.stats()
            raise RequestError(
                f"{stats.num_running} requests run and {stats.num_waiting} wait; let them finish, or abort them, first"
            )
        self.drain()
        freed = self.executor.suspend()
        self.scheduler.reset_prefix_cache()
        self.is_asleep = True
        return freed

    def wake(self) -> None:
        """Take the memory again, and go on. Does nothing when awake. Raise CapacityError where it is gone."""
        if self.is_asleep and isinstance(self.executor, SuspendableExecutor):
            self.executor.resume()
            self.is_asleep = False

    def stats(self) -> SchedulerStats:
        """Return running and waiting requests, KV usage and waste, prefix hits, preemptions and token counts."""
        return self.scheduler.stats()

    def check_integrity(self) -> None:
        """Assert that all blocks and rows are accounted for, and none is held when there is no request."""
        self.scheduler.check_integrity()
        assert self._seats or not self.scheduler.has_work, "the scheduler holds requests that the engine has forgotten"

    def shutdown(self) -> None:
        """Abort everything and stop the executor. May be called twice."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        self.abort_all()
        try:
            self.drain()
        finally:
            self.death = self.death or EngineDeadError("the engine was shut down; open another")
            self.scheduler.close()
            self.executor.stop()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _make_requests(self, admitted: Admitted) -> list[Request]:
        params, prompt = admitted.params, admitted.prompt
        seed = self._seeds.getrandbits(64) if params.seed is None else params.seed
        eos_token_ids = frozenset[int]() if params.ignore_eos else self.defaults.eos_token_ids
        return [
            Request(
                sequence_id(admitted.request_id, index, params.n),
                admitted.words,
                params,
                arrival=admitted.arrival,
                seed=(seed + index) & SEED_MASK,
                eos_token_ids=eos_token_ids,
                bad_word_ids=admitted.bad_word_ids,
                priority=params.priority,
                cache_salt=prompt.cache_salt,
                group=admitted.request_id if params.n > 1 else None,
                pooling=admitted.pooling,
            )
            for index in range(params.n)
        ]

    @property
    def _is_resting(self) -> bool:
        return self.is_paused or self.is_asleep

    def _submit(self) -> None:
        if self._is_resting:
            return
        while len(self._in_flight) < self.facts.max_in_flight:
            plan = self.scheduler.schedule()
            if plan is None:
                break
            if plan.new_rows:
                self._note_scheduled(self.scheduler.prefilling(plan))
            self._in_flight.append(Flight(plan, self.executor.submit(plan)))
        assert self._in_flight or not self.scheduler.has_work, (
            "requests wait, nothing runs, and nothing can be scheduled"
        )

    def _note_scheduled(self, requests: Sequence[Request]) -> None:
        now = self._clock()
        for request in requests:
            seat = self._seats.get(request.request_id)
            if seat is not None:
                seat.response.note_scheduled(now)

    def _collect(self) -> list[RequestOutput]:
        flight = self._in_flight.popleft()
        result = self.executor.collect(flight.ticket)
        touched: dict[str, Response] = {}
        for progress in self.scheduler.commit(flight.plan, result):
            response = self._take(progress)
            if response is not None:
                touched[response.request_id] = response
        now = self._clock()
        outputs = [self._report(response, now) for response in touched.values()]
        return [output for output in outputs if output is not None]

    def _take(self, progress: Progress) -> Response | None:
        request_id = progress.request.request_id
        seat = self._seats.get(request_id)
        if seat is None or not seat.response.extend(seat.completion, progress):
            return None
        if seat.completion.finish_reason is not None:
            del self._seats[request_id]
            if progress.finish_reason is None:  # a stop string, which the scheduler has not seen
                self.scheduler.finish(request_id, "stop")
        return seat.response

    def _report(self, response: Response, now: float) -> RequestOutput | None:
        if response.finished:
            del self._responses[response.request_id]
        return response.output(now)

    @contextmanager
    def _dying_of_errors(self) -> Iterator[None]:
        """Whatever goes wrong in a step leaves the executor in an unknown state: nothing can go on."""
        try:
            yield
        except BaseException as error:
            self.death = EngineDeadError(f"the engine stopped: {type(error).__name__}: {error}")
            self.death.__cause__ = error
            if isinstance(error, Exception):
                raise self.death from error
            raise  # Ctrl-C in the middle of a step

    def _check_alive(self) -> None:
        if self.death is not None:
            raise EngineDeadError(str(self.death)) from (self.death.__cause__ or self.death)


def sequence_id(request_id: str, index: int, n: int) -> str:
    """Return the scheduler's id for completion `index` of a request of `n`."""
    return request_id if n == 1 else f"{request_id}#{index}"
