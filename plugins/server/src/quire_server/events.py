"""Server-sent events, and what happens when the client leaves: the work for it is cancelled at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from quire_server.deadlines import NO_DEADLINE, Deadline
from quire_server.errors import CLIENT_LEFT, ApiError, as_api_error
from quire_server.express import Express

T = TypeVar("T")
Tell = Callable[[ApiError], bytes]
log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
encode = msgspec.json.Encoder().encode


def event(data: Any, name: str | None = None) -> bytes:
    """Return one event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + encode(data) + b"\n\n"


def json_response(data: Any) -> Response:
    """Return data as JSON; numbers that JSON has not, such as infinity, become null."""
    return Response(encode(data), media_type="application/json")


class EventStream(Response):
    """Sends events as they come. The generator is closed whatever happens: its requests are aborted if they still run.

    An error after the first event is sent as an event too, since the status has gone out already.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        events: AsyncGenerator[bytes],
        *,
        done: bytes,
        tell: Tell,
        deadline: Deadline = NO_DEADLINE,
        express: Express | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._first = first
        self._events = events
        self._done = done
        self._tell = tell
        self._deadline = deadline
        self._express = express

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(scope, send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(writing, leaving)
            await self._events.aclose()

    async def _write(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        if self._express is not None:
            self._express.open(scope)
        try:
            await self._write_events(send)
        except OSError:  # the client left in the middle of a write
            return
        except Exception as error:
            await self._events.aclose()  # whatever still runs ends now, not when the client has read this
            await send({"type": "http.response.body", "body": self._tell(as_api_error(error)), "more_body": True})
        await send({"type": "http.response.body", "body": self._done, "more_body": False})

    async def _write_events(self, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline.at):
                async for chunk in self._events:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            raise self._deadline.error() from None


def tell_error(error: ApiError) -> bytes:
    """Return the event that says why a stream ends early."""
    return event(error.body())


async def open_stream(
    request: Request,
    events: AsyncGenerator[bytes],
    deadline: Deadline,
    *,
    done: bytes = DONE,
    tell: Tell = tell_error,
    express: Express | None = None,
) -> EventStream:
    """Return a response whose status is known to be 200: the first event is there. Raise what refused the request.

    `done` are the last bytes of the stream; `tell` writes an error that comes after the first event; `express` takes
    what need not wake the stream.
    """
    first = await while_connected(request, anext(events), deadline)
    return EventStream(first, events, done=done, tell=tell, deadline=deadline, express=express)


async def while_connected(request: Request, work: Coroutine[Any, Any, T], deadline: Deadline = NO_DEADLINE) -> T:
    """Await work for a client; cancel it when the client leaves, or at its deadline. Raise ApiError then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait((working, leaving), timeout=deadline.left(), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if not leaving.done():
            raise deadline.error()
        raise ApiError(CLIENT_LEFT, "the client left", code="client_left")
    finally:
        await _cancel(working, leaving)


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
