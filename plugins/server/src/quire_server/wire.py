"""What the server and the engine's process say to each other: MessagePack over a socket, each message with its length.

Outputs come back without their prompt, which the server knows and which would otherwise travel with every token.
"""

from __future__ import annotations

import asyncio
from typing import Generic, Literal, TypeVar

import msgspec

from quire import errors
from quire.errors import EngineDeadError, QuireError, RequestError
from quire.intake import Pooling
from quire.outputs import EmbeddingOutput, RequestOutput
from quire.sampling import SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire_server.engine_client import Control, EngineInfo
from quire_server.snapshot import Snapshot

T = TypeVar("T")
LENGTH_BYTES = 4


class Generate(msgspec.Struct, tag=True, frozen=True):
    """To the engine: a request for tokens."""

    request_id: str
    token_ids: list[int]
    cache_salt: str
    params: SamplingParams


class Embed(msgspec.Struct, tag=True, frozen=True):
    """To the engine: a request for an embedding."""

    request_id: str
    token_ids: list[int]
    pooling: Pooling


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """To the engine: nobody reads this request's outputs any more."""

    request_id: str


class Ask(msgspec.Struct, tag=True, frozen=True):
    """To the engine: a question about itself."""

    number: int
    what: Literal["stats", "snapshot", "integrity"] | Control


class Opened(msgspec.Struct, tag=True, frozen=True):
    """To the server, first of all: the engine is open."""

    info: EngineInfo


class Failure(msgspec.Struct, tag=True, frozen=True):
    """To the server: what ended a request; without an id, what ended the engine or kept it from opening."""

    request_id: str
    kind: str
    message: str
    cause: str = ""
    param: str | None = None


class Outputs(msgspec.Struct, tag=True, frozen=True):
    """To the server: the news of a step."""

    outputs: list[RequestOutput]


class Embedded(msgspec.Struct, tag=True, frozen=True):
    """To the server: an embedding."""

    output: EmbeddingOutput


class Answer(msgspec.Struct, tag=True, frozen=True):
    """To the server: the answer to a question; `problem` is what check_integrity found, `given_back` what a control
    gave back, `failure` why it could not."""

    number: int
    stats: SchedulerStats | None = None
    snapshot: Snapshot | None = None
    problem: str = ""
    given_back: int = 0
    failure: Failure | None = None


ToEngine = Generate | Embed | Cancel | Ask
ToServer = Opened | Failure | Outputs | Embedded | Answer


class Channel(Generic[T]):
    """One end of the socket: sends any message, receives what its decoder reads. One event loop uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: msgspec.msgpack.Decoder[T]):
        self._reader = reader
        self._writer = writer
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = decoder.decode

    def send(self, message: ToEngine | ToServer | object) -> None:
        """Send a message; nothing happens when the other end is gone, which `receive` tells."""
        body = self._encode(message)
        if not self._writer.is_closing():
            self._writer.write(len(body).to_bytes(LENGTH_BYTES, "little") + body)

    async def receive(self) -> T | None:
        """Return the next message, or None when the other end is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "little")
            return self._decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def flush(self) -> None:
        """Wait until what was sent is on its way."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    def close(self) -> None:
        self._writer.close()


def describe_failure(request_id: str, error: BaseException) -> Failure:
    """Return an error as a message."""
    cause = error.__cause__
    return Failure(
        request_id=request_id,
        kind=type(error).__name__,
        message=str(error),
        cause="" if cause is None else f"{type(cause).__name__}: {cause}",
        param=getattr(error, "param", None),
    )


def build_error(failure: Failure) -> QuireError:
    """Return the error that a message tells of; of a kind that is not ours, an EngineDeadError that names it."""
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, RequestError):
        error: QuireError = kind(failure.message, param=failure.param)
    elif isinstance(kind, type) and issubclass(kind, QuireError):
        error = kind(failure.message)
    else:
        error = EngineDeadError(f"the engine's process failed: {failure.kind}: {failure.message}")
    if failure.cause:
        error.__cause__ = RuntimeError(failure.cause)
    return error
