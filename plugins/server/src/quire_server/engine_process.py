"""The engine's process: opens the engine that the first message describes, and serves the socket until it closes.

The server starts it with the socket's file descriptor. It ends when the server is gone, however that came about, and
when the engine dies, so that whoever watches the process sees it. News goes from the engine's thread to the socket
without a task or a queue of its own for each request: all that a step brought is one message.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

import msgspec

from quire.engine import Engine
from quire.engine_thread import EngineThread
from quire.errors import EngineDeadError, QuireError
from quire.intake import Admitted, Prompt
from quire.opening import open_with_context
from quire.outputs import RequestOutput, as_embedding
from quire_server.engine_client import describe_engine, do_control
from quire_server.snapshot import take_snapshot
from quire_server.wire import (
    Answer,
    Ask,
    Cancel,
    Channel,
    Delta,
    Embed,
    Embedded,
    Generate,
    Open,
    Opened,
    Outputs,
    ToEngine,
    describe_failure,
)

WATCH_S = 1.0  # how often an idle engine's life is looked at


def main() -> None:
    """Run the process; `sys.argv[1]` is the file descriptor."""
    for each in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which closes the socket when it has drained
        signal.signal(each, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sys.exit(asyncio.run(_run(sock)))


async def _run(sock: socket.socket) -> int:
    channel: Channel[ToEngine] = Channel(ToEngine)
    await channel.open(sock)
    first = await channel.receive()
    if not isinstance(first, Open):
        return 0
    try:
        engine, context = await asyncio.to_thread(open_with_context, first.config)
        info = describe_engine(engine, context)
    except Exception as error:
        channel.send(describe_failure("", error))
        channel.close()
        await channel.gone.wait()
        return 1
    server = EngineServer(engine, channel)
    channel.on_message = server.take
    channel.send(Opened(info))
    return await server.run()


class Reader:
    """Where one request's news goes: to the server, in few words."""

    def __init__(self, admitted: Admitted, server: EngineServer) -> None:
        self.admitted = admitted
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._has_begun = False

    @property
    def request_id(self) -> str:
        return self.admitted.request_id

    def put(self, news: RequestOutput | QuireError) -> None:
        if isinstance(news, QuireError):
            self._server.fail(self.request_id, news)
        elif self.admitted.pooling:
            self._server.tell_embedding(news)
        elif self._has_begun and is_plain(news):
            item = news.outputs[0]
            self._server.tell_delta(Delta(news.request_id, item.index, item.text, item.token_ids))
        else:
            self._has_begun = True
            self._server.tell(news)


def is_plain(output: RequestOutput) -> bool:
    """Whether text and tokens of one completion are all that an output has to say, after the first."""
    if output.finished or len(output.outputs) != 1 or output.prompt_logprobs is not None:
        return False
    item = output.outputs[0]
    return item.finish_reason is None and item.logprobs is None


class EngineServer:
    """Serves one engine, on a thread of its own, over a channel."""

    def __init__(self, engine: Engine, channel: Channel[ToEngine]) -> None:
        self._engine = engine
        self._channel = channel
        self._thread = EngineThread(engine)
        self._loop = asyncio.get_running_loop()
        self._readers: dict[str, Reader] = {}
        self._deltas: list[Delta] = []
        self._outputs: dict[str, RequestOutput] = {}  # by request

    async def run(self) -> int:
        """Serve until the server is gone, or the engine dead; return the process's exit code."""
        watching, leaving = asyncio.create_task(self._watch()), asyncio.create_task(self._channel.gone.wait())
        await asyncio.wait((watching, leaving), return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if self._thread.death is not None:
            self._tell_death(self._thread.death)
            self._channel.close()
            await leaving
            return 1
        await asyncio.to_thread(self._thread.stop)
        if self._channel.problem is not None:
            raise self._channel.problem
        return 0

    async def _watch(self) -> None:
        """Return when the engine is dead."""
        while self._thread.death is None:
            await asyncio.sleep(WATCH_S)

    # -- what the server says ------------------------------------------------------------------------------------------

    def take(self, message: ToEngine) -> None:
        """Do what a message asks for."""
        match message:
            case Generate() | Embed():
                self._start(message)
            case Cancel():
                if (reader := self._readers.pop(message.request_id, None)) is not None:
                    self._thread.abandon(reader)
            case Ask():
                try:
                    self._thread.call(lambda: self._answer(message))
                except EngineDeadError as error:
                    self._tell_death(error)

    def _start(self, message: Generate | Embed) -> None:
        try:
            reader = Reader(self._admit(message), self)
            self._readers[message.request_id] = reader
            self._thread.submit(reader)
        except QuireError as error:
            self.fail(message.request_id, error)

    def _admit(self, message: Generate | Embed) -> Admitted:
        if isinstance(message, Embed):
            return self._engine.admit_embedding(message.request_id, Prompt(None, message.token_ids), message.pooling)
        prompt = Prompt(None, message.token_ids, message.cache_salt)
        return self._engine.admit(message.request_id, prompt, message.params)

    def _answer(self, question: Ask) -> None:
        """Answer a question about the engine. Thread: the engine's."""
        try:
            answer = self._find_answer(question.number, question.what)
        except AssertionError as error:
            answer = Answer(question.number, problem=str(error))
        except Exception as error:
            answer = Answer(question.number, failure=describe_failure("", error))
        self._loop.call_soon_threadsafe(self._channel.send, answer)

    def _find_answer(self, number: int, what: Any) -> Answer:
        engine = self._engine
        match what:
            case "stats":
                return Answer(number, stats=engine.stats())
            case "snapshot":
                return Answer(number, snapshot=take_snapshot(engine))
            case "integrity":
                engine.check_integrity()
                return Answer(number)
        return Answer(number, given_back=do_control(engine, what))

    # -- what the engine says ------------------------------------------------------------------------------------------

    def tell_delta(self, delta: Delta) -> None:
        """Send a delta with all else that the same step brought; outputs come behind deltas in a message."""
        if delta.request_id in self._outputs:
            self._flush()
        self._flush_soon()
        self._deltas.append(delta)

    def tell(self, output: RequestOutput) -> None:
        """Send an output with all else that the same step brought; the server knows the prompt."""
        if output.request_id in self._outputs:
            self._flush()
        self._flush_soon()
        self._outputs[output.request_id] = msgspec.structs.replace(output, prompt_token_ids=[])
        if output.finished:
            self._readers.pop(output.request_id, None)

    def tell_embedding(self, output: RequestOutput) -> None:
        """Send an embedding."""
        self._readers.pop(output.request_id, None)
        try:
            self._channel.send(Embedded(msgspec.structs.replace(as_embedding(output), prompt_token_ids=[])))
        except QuireError as error:
            self.fail(output.request_id, error)

    def fail(self, request_id: str, error: QuireError) -> None:
        """Tell what ended a request, or the engine."""
        self._readers.pop(request_id, None)
        if isinstance(error, EngineDeadError):
            self._tell_death(error)
        else:
            self._flush()
            self._channel.send(describe_failure(request_id, error))

    def _flush_soon(self) -> None:
        if not self._deltas and not self._outputs:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        deltas, self._deltas = self._deltas, []
        outputs, self._outputs = self._outputs, {}
        if deltas or outputs:
            self._channel.send(Outputs(deltas, list(outputs.values())))

    def _tell_death(self, error: QuireError) -> None:
        self._flush()
        self._channel.send(describe_failure("", error))


if __name__ == "__main__":
    main()
