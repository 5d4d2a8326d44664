"""What stands before every route, as plain ASGI: request ids and the log, keys, limits of bodies."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterable, MutableMapping
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire_server.errors import CLIENT_LEFT, ApiError, as_api_error
from quire_server.usage import Usage

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What a load balancer asks, without a key."""

ADMIN_PATH = "/admin"
PAGE_PATH = "/"
NEEDS_KEY = "a key is needed: send the header 'Authorization: Bearer KEY' with {}"
MAX_NAMES = 100_000
"""Fields of all objects of a body together. A million take a second to read, in which all streams stand still."""

NOT_OF_NAMES = bytes(set(range(256)) - set(b'",:\\'))
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
access_log = logging.getLogger("quire_server.access")


class RequestIds:
    """Gives every request an id, the client's own where it brought one, and writes a line about it when it is done."""

    def __init__(self, app: ASGIApp, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"], state["arrival"] = request_id, asyncio.get_running_loop().time()
        started, status = time.perf_counter(), CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # nobody foresaw it; it is logged with its traceback
            failure = as_api_error(error)
            if status != CLIENT_LEFT:  # an answer has begun: all that can be done is to break it off
                raise
            await failure.response(scope["path"])(scope, receive, send_with_id)
        finally:
            if self._log_requests:
                self._log(scope, request_id, status, time.perf_counter() - started)
        return None

    def _log(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        line = {
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1e3, 1),
            "client": (scope.get("client") or ("",))[0],
        }
        access_log.info(msgspec.json.encode(line | _fields(scope)).decode())


class ApiKeys:
    """Lets nobody past without a key, but for the paths that a load balancer asks; /admin has keys of its own.

    Where there are no API keys everybody may use the API; where there are no admin keys nobody may use /admin.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str], admin_keys: Iterable[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._admin_keys = [key.encode() for key in admin_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (refusal := self._refusal(scope)) is None:
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        response = refusal.response(scope["path"])
        if _route_path(scope) == PAGE_PATH:  # a browser then asks for a name, any, and a password: the key
            response.headers["WWW-Authenticate"] = 'Basic realm="quire: the password is an API key"'
        return await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        path = _route_path(scope)
        if path == ADMIN_PATH or path.startswith(f"{ADMIN_PATH}/"):
            return self._admin_refusal(scope)
        if not self._keys or (scope["type"] == "http" and path in OPEN_PATHS) or _has_key(scope, self._keys):
            return None
        return ApiError(401, NEEDS_KEY.format("one of the server's keys"), code="invalid_api_key")

    def _admin_refusal(self, scope: Scope) -> ApiError | None:
        if not self._admin_keys:
            message = "the server has no admin key, so nobody may use /admin; start it with --admin-key KEY"
            return ApiError(403, message, code="admin_disabled")
        if _has_key(scope, self._admin_keys):
            return None
        return ApiError(401, NEEDS_KEY.format("an admin key"), code="invalid_admin_key")


class BodyLimit:
    """Takes in the body before the app sees the request: at most so many bytes, in at most so many seconds, and not so
    many fields that reading them would take long."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            body = await self._read(Headers(scope=scope), receive)
        except ApiError as error:
            return await error.response(scope["path"])(scope, receive, send)
        if body is None:  # the client left
            return None
        first: MutableMapping[str, Any] | None = {"type": "http.request", "body": body, "more_body": False}

        async def receive_body() -> Message:
            nonlocal first
            if first is None:
                return await receive()
            message, first = first, None
            return message

        return await self._app(scope, receive_body, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large(int(length))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read_chunks(receive)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._timeout_s:g} s", code="body_timeout") from None

    async def _read_chunks(self, receive: Receive) -> bytes | None:
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_bytes:
                raise self._too_large(size)
            more = message.get("more_body", False)
        body = b"".join(chunks)
        if (num_names := count_names(body)) > MAX_NAMES:
            problem = f"the body has some {num_names} named fields; at most {MAX_NAMES} are taken; send fewer"
            raise ApiError(413, problem, code="too_many_fields")
        return body

    def _too_large(self, size: int) -> ApiError:
        message = f"the body has {size} bytes or more; at most {self._max_bytes} are taken; send less"
        return ApiError(413, message, code="body_too_large")


def count_names(body: bytes) -> int:
    """Return about how many named fields a JSON text has, without reading it: a name is a string, then comes a colon.

    JSON that is quoted in a string has a backslash between them, and does not count; nor do names that hold an escape,
    a comma or a colon.
    """
    return body.translate(None, NOT_OF_NAMES).count(b'"":')


def _has_key(scope: Scope, keys: Iterable[bytes]) -> bool:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = [token.strip()] if scheme.lower() == "bearer" else []
    given += _basic_password(token) if scheme.lower() == "basic" else []
    given.append(headers.get("x-api-key", ""))  # Anthropic's clients send it so
    # Every key is compared, each in constant time: how long it takes tells nothing.
    found = [hmac.compare_digest(item.encode(), key) for item in given for key in keys]
    return any(found)


def _route_path(scope: Scope) -> str:
    """Return the path as the routes know it, without what a proxy put before it."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _basic_password(token: str) -> list[str]:
    """Return the password of HTTP's basic scheme, which is how browsers send a key."""
    try:
        return [base64.b64decode(token, validate=True).decode().partition(":")[2]]
    except ValueError:
        return []


def _fields(scope: Scope) -> dict[str, Any]:
    """Return what the log line says of the tokens, where the route left their count in the request's state."""
    usage: Usage | None = scope["state"].get("usage")
    return usage.log_fields() if usage is not None else {}
