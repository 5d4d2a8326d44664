"""The engine's process: opens the engine that the first message describes, and serves the socket until it closes.

The server starts it with the socket's file descriptor. It ends when the server is gone, however that came about, and
when the engine dies, so that whoever watches the process sees it. All that a step brought is one message, which the
engine's thread itself sends before it plans the next step: the server is at work while that is done, not when the model
needs all cores again. The event loop, on the main thread, reads what the server says.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

from quire.backend.contract import ExecutorContext
from quire.engine import Engine
from quire.engine_thread import EngineThread
from quire.errors import EngineDeadError, QuireError
from quire.intake import Admitted, Prompt
from quire.opening import open_with_context
from quire_server.engine_client import describe_engine, do_control, read_gauges
from quire_server.outbox import Outbox, Reader
from quire_server.snapshot import take_snapshot
from quire_server.wire import (
    Answer,
    Ask,
    Cancel,
    Embed,
    Generate,
    Open,
    Opened,
    SharedChannel,
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
    channel: SharedChannel[ToEngine] = SharedChannel(ToEngine)
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
    server = EngineServer(engine, context, channel, first.stream_interval)
    channel.on_message = server.take
    channel.send(Opened(info))
    return await server.run()


class EngineServer:
    """Serves one engine, on a thread of its own, over a channel."""

    def __init__(
        self, engine: Engine, context: ExecutorContext, channel: SharedChannel[ToEngine], stream_interval: int
    ) -> None:
        self._engine = engine
        self._context = context
        self._channel = channel
        self._stream_interval = stream_interval
        self._outbox = Outbox(channel)
        self._thread = EngineThread(engine)
        self._readers: dict[str, Reader] = {}

    async def run(self) -> int:
        """Serve until the server is gone, or the engine dead; return the process's exit code."""
        watching, leaving = asyncio.create_task(self._watch()), asyncio.create_task(self._channel.gone.wait())
        await asyncio.wait((watching, leaving), return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if self._thread.death is not None:
            self._channel.send(describe_failure("", self._thread.death))
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
                    self._channel.send(describe_failure("", error))

    def _start(self, message: Generate | Embed) -> None:
        try:
            reader = Reader(self._admit(message), self._outbox, self._stream_interval, self._forget)
            self._readers[message.request_id] = reader
            self._thread.submit(reader)
        except QuireError as error:
            self._readers.pop(message.request_id, None)
            is_dead = isinstance(error, EngineDeadError)
            self._channel.send(describe_failure("" if is_dead else message.request_id, error))

    def _forget(self, reader: Reader) -> None:
        """Thread: the engine's."""
        self._readers.pop(reader.request_id, None)

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
        self._channel.send(answer)

    def _find_answer(self, number: int, what: Any) -> Answer:
        engine = self._engine
        match what:
            case "stats":
                return Answer(number, stats=engine.stats())
            case "gauges":
                return Answer(number, gauges=read_gauges(self._context))
            case "snapshot":
                return Answer(number, snapshot=take_snapshot(engine))
            case "integrity":
                engine.check_integrity()
                return Answer(number)
        return Answer(number, given_back=do_control(engine, what))


if __name__ == "__main__":
    main()
