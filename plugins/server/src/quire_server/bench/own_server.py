"""A server to measure, in a process of its own: `quire serve` on a free port, as its users have it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from quire.config import EngineConfig
from quire.errors import QuireError
from quire_server.command import log_to_stderr, run
from quire_server.serving import Listening
from quire_server.settings import ServerSettings

READY = re.compile(rb"ready (http://\S+)")


@asynccontextmanager
async def own_server(config: EngineConfig) -> AsyncIterator[str]:
    """Start the server for the length of a block; yield its URL. Raise QuireError with its last lines if it fails."""
    command = (sys.executable, "-m", "quire_server.bench.own_server")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stderr=pipe)
    assert process.stdin is not None and process.stderr is not None, "both were asked for"
    process.stdin.write(msgspec.json.encode(config))
    process.stdin.close()
    try:
        url = await _read_url(process.stderr)
        draining = asyncio.create_task(_drain(process.stderr))
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    await draining


async def _read_url(stderr: asyncio.StreamReader) -> str:
    last = deque[str](maxlen=30)
    async for line in stderr:
        if found := READY.search(line):
            return found[1].decode()
        last.append(line.decode("utf-8", "replace").rstrip())
    raise QuireError("the server did not start; it said:\n" + "\n".join(last))


async def _drain(stderr: asyncio.StreamReader) -> None:
    """Read and forget the log, which would otherwise hold the server up."""
    async for _ in stderr:
        pass


if __name__ == "__main__":
    log_to_stderr()
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=EngineConfig)
    sys.exit(run(given, ServerSettings(model_names=(given.model,)), Listening(port=0, drain_s=5), 0))
