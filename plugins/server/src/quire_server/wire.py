"""What the server and the engine's process say to each other: MessagePack over a socket, each message with its length.

Outputs come back without their prompt, which the server knows and which would otherwise travel with every token.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from quire import errors
from quire.config import EngineConfig
from quire.errors import EngineDeadError, QuireError, RequestError
from quire.intake import Pooling
from quire.outputs import EmbeddingOutput, RequestOutput
from quire.sampling import SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire_server.engine_client import Control, EngineInfo
from quire_server.snapshot import Snapshot

T = TypeVar("T")
LENGTH_BYTES = 4


class Open(msgspec.Struct, tag=True, frozen=True):
    """To the engine, first of all: what to open, and how many tokens of a stream are told at once."""

    config: EngineConfig
    stream_interval: int


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
    what: Literal["stats", "gauges", "snapshot", "integrity"] | Control


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


class Delta(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Text and tokens that go on with one completion, and nothing else: what most news is."""

    request_id: str
    index: int
    text: str
    token_ids: list[int]


class Outputs(msgspec.Struct, tag=True, frozen=True):
    """To the server: the news of a step."""

    deltas: list[Delta]
    outputs: list[RequestOutput]


class Embedded(msgspec.Struct, tag=True, frozen=True):
    """To the server: an embedding."""

    output: EmbeddingOutput


class Answer(msgspec.Struct, tag=True, frozen=True):
    """To the server: the answer to a question; `problem` is what check_integrity found, `given_back` what a control
    gave back, `failure` why it could not."""

    number: int
    stats: SchedulerStats | None = None
    gauges: dict[str, float] = {}
    snapshot: Snapshot | None = None
    problem: str = ""
    given_back: int = 0
    failure: Failure | None = None


ToEngine = Open | Generate | Embed | Cancel | Ask
ToServer = Opened | Failure | Outputs | Embedded | Answer


class Channel(asyncio.Protocol, Generic[T]):
    """One end of the socket: sends any message, hands those of one kind to `on_message`. One event loop uses it.

    `gone` is set when the other end is; `problem` then holds what could not be read, if that was why.
    """

    def __init__(self, kind: Any) -> None:
        """`kind` is the type of what comes. Thread: that of the running event loop."""
        self.gone = asyncio.Event()
        self.problem: Exception | None = None
        self._first: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[T], None] = self._first.set_result
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode: Callable[[bytes], T] = msgspec.msgpack.Decoder(kind).decode
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    async def open(self, sock: socket.socket) -> None:
        """Begin to read and write."""
        self._socket = sock
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    async def receive(self) -> T | None:
        """Return the first message, or None when the other end is gone; later ones are for `on_message`."""
        leaving = asyncio.create_task(self.gone.wait())
        try:
            await asyncio.wait((self._first, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        return self._first.result() if self._first.done() else None

    def send(self, message: object) -> None:
        """Send a message; nothing happens when the other end is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._frame(message))

    def close(self) -> None:
        """Close when all has been sent."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio's ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for body in self._take_bodies():
                self.on_message(self._decode(body))
        except Exception as error:  # nothing after it can be trusted
            self.problem = error
            self.close()

    def _frame(self, message: object) -> bytes:
        body = self._encode(message)
        return len(body).to_bytes(LENGTH_BYTES, "little") + body

    def _take_bodies(self) -> list[bytes]:
        """Take what has come of whole messages out of the buffer."""
        buffer, bodies, start = self._buffer, [], 0
        while len(buffer) >= (first := start + LENGTH_BYTES):
            end = first + int.from_bytes(buffer[start:first], "little")
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[first:end]))
            start = end
        del buffer[:start]
        return bodies


class SharedChannel(Channel[T]):
    """A channel that any thread sends by, without waiting for the event loop's to have its turn.

    What the socket does not take at once, the event loop sends when it does: nobody waits for the other end.
    """

    def __init__(self, kind: Any) -> None:
        super().__init__(kind)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._rest = bytearray()  # on its way to the event loop

    def send(self, message: object) -> None:
        frame = self._frame(message)
        with self._lock:
            rest = frame if self._rest else frame[self._send_now(frame) :]
            if rest and not self._rest:
                self._loop.call_soon_threadsafe(self._send_rest)
            self._rest += rest

    def close(self) -> None:
        self._send_rest()
        super().close()

    def _send_now(self, data: bytes) -> int:
        """Return how many bytes need not be sent any more."""
        assert self._transport is not None, "sent before open()"
        if self._transport.get_write_buffer_size():
            return 0
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:  # the other end is gone, which the event loop learns from reading
            return len(data)

    def _send_rest(self) -> None:
        with self._lock:
            rest, self._rest = bytes(self._rest), bytearray()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(rest)


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
