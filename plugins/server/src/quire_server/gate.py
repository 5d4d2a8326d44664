"""Whether requests are taken, and how many are inside: what pausing, sleeping and ending have to know."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from quire_server.errors import ApiError

State = Literal["serving", "paused", "falling asleep", "asleep", "ending"]
CLOSED: dict[State, str] = {
    "falling asleep": "the engine is being put to sleep",
    "asleep": "the engine sleeps; an operator has to wake it",
    "ending": "the server is shutting down and takes no new requests",
}


class Gate:
    """Stands before the engine. Paused, it lets requests in, where they wait; asleep, it does not."""

    def __init__(self, retry_after: int) -> None:
        self.state: State = "serving"
        self.num_inside = 0
        self._retry_after = retry_after
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def check_open(self) -> None:
        """Raise ApiError where no request is taken."""
        if self.state in CLOSED:
            code = self.state.replace(" ", "_")
            raise ApiError(503, CLOSED[self.state], code=code, retry_after=self._retry_after)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count a request as inside for the length of a block. Raise ApiError where it is not let in."""
        self.check_open()
        self.num_inside += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self.num_inside -= 1
            if not self.num_inside:
                self._is_empty.set()

    async def wait_empty(self, seconds: float) -> bool:
        """Wait until nobody is inside, so long at most; return whether that is so."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True
