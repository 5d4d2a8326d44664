"""How long a request may take: what its body, its header or the operator says, whichever is least."""

from __future__ import annotations

import asyncio
import math
from typing import NamedTuple

from fastapi import Request

from quire_server.errors import ApiError

HEADER = "x-request-timeout"


class Deadline(NamedTuple):
    """When a request is ended, by the event loop's clock; `seconds` is what it was given in all, None: no limit."""

    seconds: float | None = None
    at: float | None = None

    def left(self) -> float | None:
        """Return the seconds that are left; None: no limit."""
        return None if self.at is None else max(self.at - asyncio.get_running_loop().time(), 0.0)

    def error(self) -> ApiError:
        """Return what a client is told when it is over."""
        message = f"the request did not end within {self.seconds:g} s; allow more with timeout, or ask for fewer tokens"
        return ApiError(408, message, code="request_timeout")


NO_DEADLINE = Deadline()


def read_deadline(request: Request, asked: float | None, limit: float | None) -> Deadline:
    """Return a request's deadline, counted from its arrival. Raise ApiError on a header that is no number.

    `asked` stands in its body, `limit` is the operator's.
    """
    given = (asked, _of_header(request.headers.get(HEADER)), limit)
    seconds = min((each for each in given if each is not None), default=None)
    return NO_DEADLINE if seconds is None else Deadline(seconds, request.state.arrival + seconds)


def _of_header(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ApiError(400, f"the header {HEADER} is {text!r}; give seconds, more than 0", code="invalid_value")
    return seconds
