"""Errors as OpenAI's clients know them: a status, and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from quire.errors import CapacityError, EngineDeadError, QueueFullError, QuireError, RequestAborted, RequestError

log = logging.getLogger(__name__)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
MESSAGES_TYPES = {500: "api_error", 503: "overloaded_error"}
MESSAGES_PATH = "/v1/messages"
UNREAD = ("body_timeout", "body_too_large")
"""Errors that leave a body unread: the connection cannot be used for another request."""

MAX_MESSAGE, MAX_PARAM = 1000, 200  # characters: what a client sent is told back without end nowhere
CLIENT_LEFT = 499  # for the log only: there is nobody to read it


class ApiError(Exception):
    """What a client is answered instead of a result."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(_shorten(message, MAX_MESSAGE))
        self.status = status
        self.param = None if param is None else _shorten(param, MAX_PARAM)
        self.code = code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        return TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "internal_server_error")

    def body(self) -> dict[str, Any]:
        param = None if self.param is None else _printable(self.param)
        return {"error": {"message": _printable(str(self)), "type": self.type, "param": param, "code": self.code}}

    def body_of_messages(self) -> dict[str, Any]:
        """Return the body in Anthropic's shape."""
        return {
            "type": "error",
            "error": {"type": MESSAGES_TYPES.get(self.status, self.type), "message": _printable(str(self))},
        }

    def response(self, path: str) -> Response:
        """Return the answer on a route, in the shape that its clients read."""
        body = self.body_of_messages() if MESSAGES_PATH in path else self.body()
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.code in UNREAD:
            headers["Connection"] = "close"
        if self.code == "request_timeout":
            headers["X-Should-Retry"] = "false"  # OpenAI's clients would ask again, and wait as long again
        return Response(msgspec.json.encode(body), self.status, headers, "application/json")


def as_api_error(error: BaseException, retry_after: int = 1) -> ApiError:
    """Return what a client is told about any error. What nobody foresaw is logged, and told by its kind only."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, str(error), code="queue_full", retry_after=retry_after)
        case RequestAborted():
            return ApiError(503, str(error), code="aborted", retry_after=retry_after)
        case RequestError():
            return ApiError(400, str(error), param=error.param, code="invalid_value")
        case EngineDeadError():
            return ApiError(503, _one_line(error), code="engine_dead", retry_after=retry_after)
        case CapacityError():
            return ApiError(503, str(error), code="out_of_memory", retry_after=retry_after)
        case QuireError():
            return ApiError(400, str(error))
    log.error("a request failed unexpectedly", exc_info=error)
    return ApiError(500, f"the server failed ({type(error).__name__}); its log says more", code="internal_error")


def install_handlers(app: FastAPI, retry_after: int) -> None:
    """Make the app answer every error in the one shape."""

    async def answer(request: Request, error: Exception) -> Response:
        return as_api_error(error, retry_after).response(request.url.path)

    async def answer_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "the handler is registered for nothing else"
        kind = request.headers.get("content-type", "")
        if error.errors()[0]["loc"][0] == "body" and "json" not in kind.lower():
            message = f"the content type is {kind!r}; send a JSON body with 'Content-Type: application/json'"
            return ApiError(415, message, code="unsupported_media_type").response(request.url.path)
        return from_validation(error).response(request.url.path)

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "the handler is registered for nothing else"
        return _from_http(request, error).response(request.url.path)

    for kind in (ApiError, QuireError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(HTTPException, answer_http)


def from_validation(error: RequestValidationError) -> ApiError:
    """Return the first thing that is wrong with a body."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:] if "[" not in str(part)]  # names of a union's members have brackets
    param = place[0] if place and not place[0].isdigit() else None
    where = ".".join(place)
    match first["type"]:
        case "missing":
            return ApiError(400, f"{where or 'the body'} is missing", param=param, code="missing_required_parameter")
        case "extra_forbidden":
            return ApiError(400, f"unknown parameter {where!r}", param=param, code="unknown_parameter")
        case "json_invalid":
            reason = first.get("ctx", {}).get("error", first["msg"])
            return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
        case "value_error":
            return ApiError(400, str(first["ctx"]["error"]), param=param, code="invalid_value")
    message = f"{where or 'the body'}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return ApiError(400, message, param=param, code="invalid_type")


def _from_http(request: Request, error: HTTPException) -> ApiError:
    what = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(404, f"there is no route {what}", code="unknown_url")
    if error.status_code == 405:
        return ApiError(405, f"{what} is not allowed; use another method", code="method_not_allowed")
    return ApiError(error.status_code, str(error.detail))


def _shorten(text: str, most: int) -> str:
    """Return a text of about so many characters at most: of a longer one its beginning and its end, which say most."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … ({len(text) - 2 * half} characters more) … {text[-half:]}"


def _printable(text: str) -> str:
    """Return a text that UTF-8 can write, whatever a client put into it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
