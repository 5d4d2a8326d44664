"""The engine in a process of its own, so that HTTP and tokenising never hold up a step, nor a crash the server."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any, Literal, Self

from quire.config import EngineConfig
from quire.errors import EngineDeadError, QuireError
from quire.intake import Pooling, Prompt
from quire.outputs import CompletionOutput, EmbeddingOutput, RequestOutput, merge_deltas
from quire.sampling import OutputKind, SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire_server.engine_client import Control, EngineInfo
from quire_server.express import Express
from quire_server.snapshot import Snapshot
from quire_server.wire import (
    Answer,
    Ask,
    Cancel,
    Channel,
    Delta,
    Embed,
    Embedded,
    Failure,
    Generate,
    Open,
    Opened,
    Outputs,
    ToServer,
    build_error,
)

CLOSING_S = 10.0  # what the process gets to end by itself
log = logging.getLogger(__name__)


class Mailbox:
    """One request's news on their way to its reader: at most one output, deltas being joined."""

    __slots__ = ("_error", "_express", "_is_delta", "_latest", "_loop", "_output", "_waiter")

    def __init__(self, *, is_delta: bool, express: Express | None = None) -> None:
        self._is_delta = is_delta
        self._express = express
        self._loop = asyncio.get_running_loop()
        self._output: RequestOutput | None = None
        self._error: QuireError | None = None
        self._latest: RequestOutput | None = None  # the last that came whole: deltas share what they do not say
        self._waiter: asyncio.Future[None] | None = None

    def put(self, news: RequestOutput | QuireError) -> None:
        if isinstance(news, QuireError):
            self._error = news
        else:
            self._latest = news
            self._add(news)
        self._wake()

    def put_delta(self, delta: Delta) -> None:
        if self._is_awaited and self._express is not None and self._express.take(delta):
            return
        latest = self._latest
        assert latest is not None, "a delta came before its request's first output"
        item = CompletionOutput(index=delta.index, text=delta.text, token_ids=delta.token_ids)
        self._add(
            RequestOutput(
                request_id=delta.request_id,
                prompt=None,
                prompt_token_ids=[],
                outputs=[item],
                finished=False,
                metrics=latest.metrics,
                num_cached_tokens=latest.num_cached_tokens,
            )
        )
        self._wake()

    async def take(self) -> RequestOutput:
        """Wait for the next output. Raise what ended the request, once its outputs have been taken."""
        if self._output is None and self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        output, self._output = self._output, None
        if output is None:
            assert self._error is not None, "a mailbox was ready without an output or an error"
            raise self._error
        return output

    @property
    def _is_awaited(self) -> bool:
        """Whether the reader has dealt with all that came, and waits for more."""
        return self._waiter is not None and not self._waiter.done()

    def _add(self, news: RequestOutput) -> None:
        waiting = self._output
        self._output = merge_deltas(waiting, news) if waiting is not None and self._is_delta else news

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class EngineProcess:
    """One life of the engine's process. `death` is None while it lives."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel[ToServer], info: EngineInfo) -> None:
        self.process = process
        self.info = info
        self.death: EngineDeadError | None = None
        self._channel = channel
        self._mailboxes: dict[str, Mailbox] = {}
        self._embeddings: dict[str, asyncio.Future[EmbeddingOutput]] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._numbers = itertools.count()

    @classmethod
    async def start(cls, config: EngineConfig, stream_interval: int) -> Self:
        """Start the process and wait until its engine is open. Raise what kept it from opening."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "quire_server.engine_process", str(theirs.fileno()), pass_fds=[theirs.fileno()]
            )
        channel: Channel[ToServer] = Channel(ToServer)
        await channel.open(ours)
        channel.send(Open(config, stream_interval))
        try:
            first = await channel.receive()
        except BaseException:  # Ctrl-C while a model loads
            process.kill()
            raise
        if isinstance(first, Opened):
            self = cls(process, channel, first.info)
            channel.on_message = self._dispatch
            return self
        channel.close()
        code = await process.wait()
        raise build_error(first) if isinstance(first, Failure) else EngineDeadError(_how_it_ended(code))

    async def run(self) -> None:
        """Wait for the process's end; then tell every reader."""
        await self._channel.gone.wait()
        if (problem := self._channel.problem) is not None:
            log.error("the engine's process cannot be understood", exc_info=problem)
            self._end(EngineDeadError(f"the engine's process cannot be understood: {problem}"))
        code = await self.process.wait()
        self._end(self.death or EngineDeadError(_how_it_ended(code)))

    def _dispatch(self, message: ToServer) -> None:
        match message:
            case Outputs():
                for delta in message.deltas:
                    if (mailbox := self._mailboxes.get(delta.request_id)) is not None:
                        mailbox.put_delta(delta)
                for output in message.outputs:
                    if (mailbox := self._mailboxes.get(output.request_id)) is not None:
                        mailbox.put(output)
            case Failure(request_id=""):
                error = build_error(message)
                self._end(error if isinstance(error, EngineDeadError) else EngineDeadError(str(error)))
            case Failure():
                self._fail(message.request_id, build_error(message))
            case Embedded():
                _settle(self._embeddings.get(message.output.request_id), message.output)
            case Answer():
                _settle(self._answers.get(message.number), message)

    def _fail(self, request_id: str, error: QuireError) -> None:
        if (mailbox := self._mailboxes.get(request_id)) is not None:
            mailbox.put(error)
        future = self._embeddings.get(request_id)
        if future is not None and not future.done():
            future.set_exception(error)

    def _end(self, death: EngineDeadError) -> None:
        self.death = death
        for mailbox in self._mailboxes.values():
            mailbox.put(_copy(death))
        waiting: list[asyncio.Future[Any]] = [*self._embeddings.values(), *self._answers.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(_copy(death))

    # -- requests ------------------------------------------------------------------------------------------------------

    async def generate(
        self, prompt: Prompt, params: SamplingParams, request_id: str, express: Express | None = None
    ) -> AsyncGenerator[RequestOutput]:
        self.check_alive()
        is_delta = params.output_kind is OutputKind.DELTA
        mailbox = self._mailboxes[request_id] = Mailbox(is_delta=is_delta, express=express)
        finished = False
        try:
            self._channel.send(Generate(request_id, prompt.token_ids, prompt.cache_salt, params))
            while not finished:
                output = await mailbox.take()
                finished = output.finished
                yield output
        finally:
            del self._mailboxes[request_id]
            if not finished:
                self._channel.send(Cancel(request_id))

    async def embed(self, prompt: Prompt, pooling: Pooling, request_id: str) -> EmbeddingOutput:
        self.check_alive()
        future: asyncio.Future[EmbeddingOutput] = asyncio.get_running_loop().create_future()
        self._embeddings[request_id] = future
        self._channel.send(Embed(request_id, prompt.token_ids, pooling))
        try:
            return await future
        except asyncio.CancelledError:
            self._channel.send(Cancel(request_id))
            raise
        finally:
            del self._embeddings[request_id]

    async def ask(self, what: Literal["stats", "gauges", "snapshot", "integrity"] | Control) -> Answer:
        self.check_alive()
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        try:
            self._channel.send(Ask(number, what))
            answer = await future
        finally:
            del self._answers[number]
        if answer.failure is not None:
            raise build_error(answer.failure)
        return answer

    def tell(self, what: Control) -> None:
        """Have it done before anything that is sent later; nobody waits for the answer."""
        self._channel.send(Ask(next(self._numbers), what))

    def check_alive(self) -> None:
        """Raise EngineDeadError where it is dead."""
        if self.death is not None:
            raise _copy(self.death)

    async def close(self) -> None:
        """End the process: it goes by itself when the socket closes, or is killed."""
        self._channel.close()
        try:
            await asyncio.wait_for(self.process.wait(), CLOSING_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class RemoteEngine:
    """The engine in its own process, started again after a death as often as `restarts` says."""

    def __init__(self, config: EngineConfig, stream_interval: int, first: EngineProcess, restarts: int) -> None:
        self.info = first.info
        self._config = config
        self._stream_interval = stream_interval
        self._current = first
        self._restarts = restarts
        self._closed: EngineDeadError | None = None
        self._rest: Control | None = None  # "pause" or "sleep", where an engine that is started again must rest too
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def open(cls, config: EngineConfig, restarts: int = 0, stream_interval: int = 1) -> Self:
        """Start the process and open the engine in it. Raise what `open_engine` raises there."""
        return cls(config, stream_interval, await EngineProcess.start(config, stream_interval), restarts)

    @property
    def death(self) -> EngineDeadError | None:
        return self._closed or self._current.death

    @property
    def pid(self) -> int:
        """The process that the engine runs in now."""
        return self._current.process.pid

    def generate(
        self, prompt: Prompt, params: SamplingParams, request_id: str, express: Express | None = None
    ) -> AsyncGenerator[RequestOutput]:
        return self._current.generate(prompt, params, request_id, express)

    async def embed(self, prompt: Prompt, pooling: Pooling, request_id: str) -> EmbeddingOutput:
        return await self._current.embed(prompt, pooling, request_id)

    async def stats(self) -> SchedulerStats:
        answer = await self._current.ask("stats")
        assert answer.stats is not None, "the engine answered without stats"
        return answer.stats

    async def gauges(self) -> dict[str, float]:
        return (await self._current.ask("gauges")).gauges

    async def snapshot(self) -> Snapshot:
        answer = await self._current.ask("snapshot")
        assert answer.snapshot is not None, "the engine answered without a snapshot"
        return answer.snapshot

    async def control(self, what: Control) -> int:
        answer = await self._current.ask(what)
        if what != "reset_cache":
            self._rest = what if what in ("pause", "sleep") else None
        return answer.given_back

    async def check_integrity(self) -> None:
        answer = await self._current.ask("integrity")
        assert not answer.problem, answer.problem

    async def close(self) -> None:
        if self._closed is None:
            self._closed = EngineDeadError("the engine was shut down")
            await self._current.close()
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Serve one life of the process after the other."""
        await self._current.run()
        while self._closed is None:
            log.error("the engine died: %s", self._current.death)
            if self._restarts < 1:
                return
            self._restarts -= 1
            if await self._restart():
                await self._current.run()

    async def _restart(self) -> bool:
        started = time.perf_counter()
        try:
            self._current = await EngineProcess.start(self._config, self._stream_interval)
        except QuireError as error:
            log.error("the engine cannot be opened again: %s", error)
            return False
        if self._rest is not None:
            self._current.tell(self._rest)
        log.warning("the engine is back after %.1f s", time.perf_counter() - started)
        return True


def _settle(future: asyncio.Future[Any] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"the engine's process was killed by {signal.Signals(-code).name}"
    return f"the engine's process ended with exit code {code}; its lines on stderr say why"


def _copy(error: EngineDeadError) -> EngineDeadError:
    """Return the same error for another reader, so that each has a traceback of its own."""
    copied = EngineDeadError(str(error))
    copied.__cause__ = error.__cause__
    return copied
