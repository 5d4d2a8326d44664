"""The engine's process: opens the engine that the first message describes, and serves the socket until it closes.

The server starts it with the socket's file descriptor. It ends when the server is gone, however that came about, and
when the engine dies, so that whoever watches the process sees it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import msgspec

from quire.async_llm import AsyncLLM
from quire.config import EngineConfig
from quire.errors import EngineDeadError, QuireError
from quire.intake import Prompt
from quire.outputs import RequestOutput
from quire_server.engine_client import do_control
from quire_server.local import open_local
from quire_server.snapshot import take_snapshot
from quire_server.wire import (
    Answer,
    Ask,
    Cancel,
    Channel,
    Embed,
    Embedded,
    Generate,
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
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    first = await Channel(reader, writer, msgspec.msgpack.Decoder(EngineConfig)).receive()
    if first is None:
        return 0
    decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
    channel = Channel(reader, writer, decoder)
    try:
        local = await asyncio.to_thread(open_local, first)
    except Exception as error:
        channel.send(describe_failure("", error))
        await channel.flush()
        return 1
    channel.send(Opened(local.info))
    async with local.llm as llm:
        return await EngineServer(llm, channel).run()


class EngineServer:
    """Serves one AsyncLLM over a channel."""

    def __init__(self, llm: AsyncLLM, channel: Channel[ToEngine]) -> None:
        self._llm = llm
        self._channel = channel
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._news: list[RequestOutput] = []

    async def run(self) -> int:
        """Serve until the server is gone, or the engine dead; return the process's exit code."""
        serving, watching = asyncio.create_task(self._serve()), asyncio.create_task(self._watch())
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        for task in (serving, watching, *self._tasks.values()):
            task.cancel()
        await self._channel.flush()
        if serving.done() and not serving.cancelled():
            serving.result()  # raises what must not happen: a message that cannot be read
        return 1 if self._llm.death is not None else 0

    async def _serve(self) -> None:
        while (message := await self._channel.receive()) is not None:
            match message:
                case Generate():
                    self._start(message.request_id, self._generate(message))
                case Embed():
                    self._start(message.request_id, self._embed(message))
                case Cancel():
                    task = self._tasks.get(message.request_id)
                    if task is not None:
                        task.cancel()
                case Ask():
                    self._keep(asyncio.create_task(self._answer(message)))

    async def _watch(self) -> None:
        """Return when the engine is dead, which the server is told."""
        while self._llm.death is None:
            await asyncio.sleep(WATCH_S)
        self._tell_death(self._llm.death)

    def _start(self, request_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guard(request_id, work))
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done: the event loop itself does not."""
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _guard(self, request_id: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except EngineDeadError as error:
            self._tell_death(error)
        except Exception as error:
            self._flush_news()
            self._channel.send(describe_failure(request_id, error))

    async def _generate(self, message: Generate) -> None:
        prompt = Prompt(None, message.token_ids, message.cache_salt)
        async with aclosing(self._llm.generate(prompt, message.params, message.request_id)) as outputs:
            async for output in outputs:
                self._tell(msgspec.structs.replace(output, prompt_token_ids=[]))

    async def _embed(self, message: Embed) -> None:
        prompt = Prompt(None, message.token_ids)
        output = await self._llm.embed(prompt, pooling=message.pooling, request_id=message.request_id)
        self._channel.send(Embedded(msgspec.structs.replace(output, prompt_token_ids=[])))

    async def _answer(self, question: Ask) -> None:
        try:
            self._channel.send(await self._find_answer(question))
        except AssertionError as error:
            self._channel.send(Answer(question.number, problem=str(error)))
        except EngineDeadError as error:
            self._tell_death(error)
        except QuireError as error:
            self._channel.send(Answer(question.number, failure=describe_failure("", error)))

    async def _find_answer(self, question: Ask) -> Answer:
        llm, number = self._llm, question.number
        match question.what:
            case "stats":
                return Answer(number, stats=await llm.stats())
            case "snapshot":
                return Answer(number, snapshot=await llm.call(lambda: take_snapshot(llm.engine)))
            case "integrity":
                await llm.check_integrity()
                return Answer(number)
            case control:
                return Answer(number, given_back=await llm.call(lambda: do_control(llm.engine, control)))

    def _tell(self, output: RequestOutput) -> None:
        """Send an output with all others that the same step brought."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._flush_news)
        self._news.append(output)

    def _flush_news(self) -> None:
        news, self._news = self._news, []
        if news:
            self._channel.send(Outputs(news))

    def _tell_death(self, error: QuireError) -> None:
        self._flush_news()
        self._channel.send(describe_failure("", error))


if __name__ == "__main__":
    main()
