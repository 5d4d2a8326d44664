"""HTTP/1.1 as uvicorn reads it, but for what a client could use to hold the server up: headers that are too large or
take too long, and too many connections. Bodies are `middleware.BodyLimit`'s business."""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from quire_server.errors import ApiError
from quire_server.express import EXTENSION
from quire_server.settings import ServerSettings

LINE_BYTES = 4  # ": " and the end of the line


class GuardedProtocol(HttpToolsProtocol):
    """One connection. What is refused here is answered in OpenAI's shape, and the connection closed."""

    def __init__(self, settings: ServerSettings, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._settings = settings
        self._problem: ApiError | None = None
        self._head_bytes = 0  # received of the headers that are read now, as long as they have not ended
        self._is_in_head = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()
        most = self._settings.max_connections
        if len(self.connections) > most:
            self._refuse(ApiError(503, f"{most} connections are open, which is the limit", code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.max_header_bytes:
                self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_timer()
        num_bytes = len(self.url) + sum(len(name) + len(value) + LINE_BYTES for name, value in self.headers)
        if num_bytes > self._settings.max_header_bytes:
            self._problem = self._too_large()
            raise ValueError("the parser stops, and send_400_response tells why")
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: {"write": partial(self._write, self.cycle)}}

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read, or what a callback above refused."""
        self._refuse(self._problem or ApiError(400, "this is not HTTP/1.1 as it is written", code="invalid_http"))

    def _write(self, cycle: RequestResponseCycle, data: bytes) -> bool:
        """Write a part of an answer's body as `cycle.send` does, where it would not have to wait."""
        if self.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def _too_large(self) -> ApiError:
        most = self._settings.max_header_bytes
        return ApiError(431, f"the headers have more than {most} bytes; send less", code="headers_too_large")

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._settings.header_timeout_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # an answer is under way, which the next request's headers must not break off
        elif not self._is_in_head:
            self.transport.close()
        else:
            seconds = self._settings.header_timeout_s
            self._refuse(ApiError(408, f"the headers did not arrive within {seconds:g} s", code="headers_timeout"))

    def _refuse(self, error: ApiError) -> None:
        self._is_in_head = False
        self._stop_timer()
        self.transport.write(_as_bytes(error.response("")))
        self.transport.close()


def _as_bytes(response: Response) -> bytes:
    status = HTTPStatus(response.status_code)
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers if name != b"connection")
    line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return line + head + b"connection: close\r\n\r\n" + bytes(response.body)
