"""AsyncLLM: one engine, many callers at once, each with a stream of its own.

>>> async with AsyncLLM("demo") as llm:
...     async for output in llm.generate("The sea", SamplingParams(output_kind="delta")):
...         print(output.outputs[0].text, end="")
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from quire.config import make_config
from quire.engine import Engine
from quire.engine_thread import EngineThread, OutputStream
from quire.errors import EngineDeadError, RequestError
from quire.intake import Admitted, Pooling, Prompt, PromptLike
from quire.opening import open_engine
from quire.outputs import EmbeddingOutput, RequestOutput, ScoreOutput, as_embedding
from quire.sampling import SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire.scoring import make_score_prompt, read_score, score_params
from quire.text.tokenizer import Tokenizer

T = TypeVar("T")

LONG_TEXT = 20_000  # characters; about 5 ms to tokenize, more than an event loop should wait


class AsyncLLM:
    """An engine on a thread of its own. Its coroutines may run in any event loop, in several at once."""

    def __init__(self, model: str, **settings: Any) -> None:
        """Open `model`, as `LLM` does. Raise ConfigError, BackendError, ModelError, CapacityError."""
        self._open(open_engine(make_config({"model": model, **settings})))

    @classmethod
    def from_engine(cls, engine: Engine) -> Self:
        """Wrap an engine that is open already, and own it."""
        self = cls.__new__(cls)
        self._open(engine)
        return self

    def _open(self, engine: Engine) -> None:
        self.engine = engine
        self._thread = EngineThread(engine)
        self._ids = itertools.count()
        self._finalizer = weakref.finalize(self, self._thread.stop)

    # -- requests ------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: PromptLike | Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Yield a request's outputs as `output_kind` says; a slow reader gets several steps' news in one.

        Leaving the loop, or cancelling the task, aborts the request: its blocks are free before the next step is
        planned. Raise RequestError, QueueFullError at once; RequestError where the request fails while it runs;
        RequestAborted after `abort` or `close`; EngineDeadError.
        """
        return self._stream(lambda: self._admit(prompt, sampling_params, request_id))

    async def embed(
        self, prompt: PromptLike | Prompt, *, pooling: Pooling = "last", request_id: str | None = None
    ) -> EmbeddingOutput:
        """Return a prompt's final hidden states, pooled. Raise as `generate`, and where the executor has none."""

        async def admit() -> Admitted:
            return self.engine.admit_embedding(self._id(request_id), prompt, pooling)

        return as_embedding([output async for output in self._stream(admit)][-1])

    async def score(
        self, prompt: PromptLike, continuation: PromptLike, *, request_id: str | None = None
    ) -> ScoreOutput:
        """Return how likely a continuation is after its prompt, joined as `LLM.score` does. Raise as `generate`, and
        where either has no token."""
        pair = await asyncio.to_thread(make_score_prompt, prompt, continuation, self.engine)
        outputs = [output async for output in self.generate(pair.whole, score_params(), request_id)]
        return read_score(pair, outputs[-1])

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        **template_options: Any,
    ) -> AsyncGenerator[RequestOutput]:
        """Answer a conversation; as `generate`, with the options of `LLM.chat`."""

        async def admit() -> Admitted:
            prompt = await asyncio.to_thread(self.engine.intake.read_chat, messages, **template_options)
            return await self._admit(prompt, sampling_params, request_id)

        return self._stream(admit)

    async def abort(self, request_id: str) -> None:
        """End a request; its stream raises RequestAborted. Unknown ids are ignored: it may just have finished."""
        self._thread.abort(request_id)

    # -- the engine ----------------------------------------------------------------------------------------------------

    @property
    def death(self) -> EngineDeadError | None:
        """Why the engine stopped, or None while it lives."""
        return self._thread.death

    async def stats(self) -> SchedulerStats:
        """Return the engine's counters, read between two steps. Raise EngineDeadError."""
        return await self.call(self.engine.stats)

    async def check_integrity(self) -> None:
        """Assert that no block or row is lost. For tests, and for an engine at rest."""
        await self.call(self.engine.check_integrity)

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the engine's thread, between two steps, and return or raise what it does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._thread.call(lambda: _answer(loop, future, function))
        return await future

    def get_default_sampling_params(self) -> SamplingParams:
        """Return what the model's generation_config.json advises."""
        return self.engine.defaults.sampling_params()

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raise RequestError where the model has none."""
        if self.engine.tokenizer is None:
            raise RequestError("the model's folder holds no tokenizer; open it with tokenizer=FOLDER_OR_NAME")
        return self.engine.tokenizer

    def close(self) -> None:
        """Abort all requests and stop the executor; waits for the step under way. May be called twice."""
        self._finalizer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _stream(self, admit: Callable[[], Awaitable[Admitted]]) -> AsyncGenerator[RequestOutput]:
        stream = OutputStream(await admit())
        self._thread.submit(stream)
        finished, failures = False, list[str]()
        try:
            while not finished:
                output = await stream.take()
                finished = output.finished
                failures += [str(item.stop_reason) for item in output.outputs if item.finish_reason == "error"]
                yield output
        finally:
            if not finished:
                self._thread.abandon(stream)
        if failures:
            raise RequestError(f"request {stream.request_id!r} failed: {failures[0]}")

    async def _admit(
        self, prompt: PromptLike | Prompt, params: SamplingParams | None, request_id: str | None
    ) -> Admitted:
        request_id = self._id(request_id)
        text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
        if isinstance(text, str) and len(text) > LONG_TEXT:
            return await asyncio.to_thread(self.engine.admit, request_id, prompt, params)
        return self.engine.admit(request_id, prompt, params)

    def _id(self, request_id: str | None) -> str:
        return f"async-{next(self._ids)}" if request_id is None else request_id


def _answer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], function: Callable[[], T]) -> None:
    """Run a function and settle a future of another thread's loop with what comes of it."""

    def settle(method: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            method(value)

    answer: tuple[Callable[[Any], None], Any]
    try:
        answer = (future.set_result, function())
    except Exception as error:
        answer = (future.set_exception, error)
    with suppress(RuntimeError):  # that loop is closed: nobody waits
        loop.call_soon_threadsafe(settle, *answer)
