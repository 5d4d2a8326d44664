"""A file of requests answered without a socket, in the format of OpenAI's batches: one JSON object a line.

Each line goes through the server's own app, so that its answer, and its refusal, is what the server would give.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/score")
"""What a line may ask for."""


class Line(msgspec.Struct):
    """One request. `body` stays as it was written: the app reads it."""

    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class Answer(msgspec.Struct):
    """What came of a line: a response, whatever its status, or the error that kept the line from being a request."""

    id: str
    custom_id: str | None
    response: dict[str, Any] | None = None
    error: dict[str, str] | None = None

    @property
    def failed(self) -> bool:
        return self.response is None or self.response["status_code"] >= 400


class LineError(Exception):
    """A line that is no request. `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Body(msgspec.Struct):
    stream: Any = None


async def answer_all(app: ASGIApp, lines: Iterable[bytes], num_at_once: int, write: Callable[[Answer], None]) -> None:
    """Answer every line, so many at a time, begun in their order and written as they are done. Blank lines are none."""
    source, seen = (line for line in lines if line.strip()), set[str]()

    async def work() -> None:
        for line in source:  # shared by all workers: each takes the next
            write(await answer(app, line, seen))

    async with asyncio.TaskGroup() as group:
        for _ in range(num_at_once):
            group.create_task(work())


async def answer(app: ASGIApp, text: bytes, seen: set[str]) -> Answer:
    """Answer one line. Mutates: `seen`, the custom_ids so far."""
    answered = Answer(f"batch_req_{uuid.uuid4().hex}", None)
    try:
        line = _decode(text)
        answered.custom_id = line.custom_id
        _check(line, seen)
    except LineError as error:
        answered.error = {"code": error.code, "message": str(error)}
        return answered
    reply = await post(app, line.url, bytes(line.body))
    answered.response = {"status_code": reply.status, "request_id": reply.request_id, "body": msgspec.Raw(reply.body)}
    return answered


class Reply(NamedTuple):
    """An HTTP answer that never crossed a wire."""

    status: int
    request_id: str
    body: bytes


async def post(app: ASGIApp, path: str, body: bytes) -> Reply:
    """Hand an app a POST of JSON and return its whole answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    asked: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    told: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await asyncio.Event().wait()  # a client that never leaves
        raise AssertionError("nobody sets the event")

    async def send(message: MutableMapping[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    headers = Headers(raw=told[0]["headers"])
    return Reply(told[0]["status"], headers["x-request-id"], b"".join(item.get("body", b"") for item in told[1:]))


def _decode(text: bytes) -> Line:
    try:
        return msgspec.json.decode(text, type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = f"the line is no request: {error}; it needs custom_id, method, url and body"
        raise LineError("invalid_line", problem) from None


def _check(line: Line, seen: set[str]) -> None:
    """Raise LineError where the app should not even see it."""
    if line.custom_id in seen:
        raise LineError("duplicate_custom_id", f"custom_id {line.custom_id!r} was used before; each must be unique")
    seen.add(line.custom_id)
    if line.method != "POST" or line.url not in ROUTES:
        problem = f"{line.method} {line.url} is not served in a batch; POST to one of {', '.join(ROUTES)}"
        raise LineError("invalid_url", problem)
    try:
        is_stream = msgspec.json.decode(line.body, type=_Body).stream
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LineError("invalid_line", f"body: {error}") from None
    if is_stream:
        raise LineError("stream_unsupported", "a batch has no streams; leave stream out")
