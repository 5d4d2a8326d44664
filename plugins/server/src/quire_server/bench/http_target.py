"""A server as a target: a small HTTP client that notes when each part of a stream arrives, and does little else.

It shares the machine with the server that it measures, so what it costs is counted against the server: what came is
kept as it is, and read when the clock has stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools
import msgspec

from quire.errors import ConfigError, QuireError
from quire_server.bench.load import Answer, Reply
from quire_server.bench.workload import Item

PATH = "/v1/completions"


class Part(NamedTuple):
    """Bytes of a body, and when they arrived."""

    time: float
    data: bytes


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


decode = msgspec.json.Decoder(_Chunk).decode


class HttpTarget:
    """Streams completions from a server; connections are kept and used again."""

    def __init__(self, url: str, model: str, api_key: str | None = None) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or address.hostname is None:
            raise ConfigError(f"--url is {url!r}; it must be like http://127.0.0.1:8000")
        self._host, self._is_tls = address.hostname, address.scheme == "https"
        self._port = address.port or (443 if self._is_tls else 80)
        self._prefix = address.path.rstrip("/").removesuffix("/v1")
        self.model = model
        self._key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._idle: list[Connection] = []

    async def send(self, item: Item) -> Answer:
        body = {
            "model": self.model,
            "prompt": item.prompt,
            "max_tokens": item.output_len,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return partial(read_stream, await self._exchange("POST", PATH, msgspec.json.encode(body)))

    async def first_model(self) -> str:
        """Return the name of the first model that the server has. Raise QuireError."""
        body = _join(await self._exchange("GET", "/v1/models", b""))
        try:
            return str(msgspec.json.decode(body)["data"][0]["id"])
        except (msgspec.DecodeError, LookupError, TypeError) as error:
            raise QuireError(f"/v1/models answers {body[:200]!r}; name the MODEL") from error

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, method: str, path: str, body: bytes) -> list[Part]:
        connection = await self._connect()
        try:
            parts = await connection.exchange(self._request(method, path, body))
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return parts

    async def _connect(self) -> Connection:
        while self._idle:
            if (kept := self._idle.pop()).is_open:
                return kept
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(Connection, self._host, self._port, ssl=self._is_tls or None)
        except OSError as error:
            raise QuireError(f"cannot connect to {self._host}, port {self._port}: {error}") from error
        return made

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        lines = f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{self._key}"
        return f"{lines}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection: a request goes out, the answer's parts are timed as they come in."""

    def __init__(self) -> None:
        self.is_open = False
        self._is_over: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes) -> list[Part]:
        """Send a request and return the body of its answer, once it is whole. Raise QuireError on a refusal."""
        self._parts = list[Part]()
        self._is_over = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        await self._is_over
        status = self._parser.get_status_code()
        if status != 200:
            raise QuireError(f"{status}: {_join(self._parts).decode('utf-8', 'replace')[:300]}")
        return self._parts

    def close(self) -> None:
        self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._is_over is not None and not self._is_over.done():
            problem = f"the server closed the connection before the answer was over ({error or 'it gave no reason'})"
            self._is_over.set_exception(QuireError(problem))

    # -- httptools -----------------------------------------------------------------------------------------------------

    def on_body(self, data: bytes) -> None:
        self._parts.append(Part(self._now, data))

    def on_message_complete(self) -> None:
        self.is_open = self.is_open and self._parser.should_keep_alive()
        assert self._is_over is not None, "an answer ends that nobody asked for"
        if not self._is_over.done():
            self._is_over.set_result(None)


def read_stream(parts: list[Part]) -> Reply:
    """Return what a stream of events was. Raise QuireError where it tells of an error, or no token came."""
    times, usage = list[float](), _Usage()
    for part in _split(parts):
        chunk = _read_event(part.data)
        if chunk.error is not None:
            raise QuireError(str(chunk.error.get("message", chunk.error)))
        if chunk.choices:
            times.append(part.time)
        usage = chunk.usage or usage
    if not times:
        raise QuireError("the answer holds no token")
    num_tokens = len(times) if usage.completion_tokens is None else usage.completion_tokens
    return Reply(times, num_tokens, usage.prompt_tokens)


def _split(parts: list[Part]) -> Iterator[Part]:
    """Yield the data of each event, with the time at which it was whole."""
    rest = b""
    for part in parts:
        *events, rest = (rest + part.data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data:") and not event.endswith(b"[DONE]"):
                yield Part(part.time, event.removeprefix(b"data:"))


def _read_event(data: bytes) -> _Chunk:
    try:
        return decode(data)
    except msgspec.MsgspecError as error:
        raise QuireError(f"an event of the stream cannot be read: {data[:200]!r} ({error})") from error


def _join(parts: list[Part]) -> bytes:
    return b"".join(part.data for part in parts)
