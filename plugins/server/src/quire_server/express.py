"""The short way of a plain token: from the engine's message to the client's socket, without waking its stream's task.

Most news of a stream is text and nothing else. While the stream's task waits for news, and the connection takes more,
such news is written at once, as the same event that the task would have made of it; all else, and all that comes while
the task is at work, goes the long way, so that nothing overtakes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from quire_server.metrics import RequestWatch
    from quire_server.usage import Usage
    from quire_server.wire import Delta

EXTENSION = "quire.write"
"""Of a request's ASGI scope, where the server is our own: its "write" is the connection's `Write`."""

Write = Callable[[bytes], bool]
"""Write a part of an answer's body without waiting; return False, having written nothing, where that cannot be."""

PlainEvent = Callable[[int, str], bytes | None]
"""Return the event of a completion's text, or None where it is more than that, such as the completion's first."""

encode = msgspec.json.Encoder().encode


class Express:
    """Takes one stream's deltas, from the moment on that the answer's head and first event have gone out."""

    __slots__ = ("_event", "_usage", "_watch", "_write")

    def __init__(self, event: PlainEvent, usage: Usage) -> None:
        self._event = event
        self._usage = usage
        self._write: Write | None = None
        self._watch: RequestWatch | None = None

    def count_in(self, watch: RequestWatch) -> None:
        """Say where tokens are counted."""
        self._watch = watch

    def open(self, scope: Mapping[str, Any]) -> None:
        """Begin to take deltas for the client of a request, where its connection can be written to."""
        extensions = scope.get("extensions") or {}
        self._write = extensions.get(EXTENSION, {}).get("write")

    def take(self, delta: Delta) -> bool:
        """Write a delta and count it; return False where it must go the long way."""
        if self._write is None or self._watch is None:
            return False
        data = self._event(delta.index, delta.text)
        if data is None or not self._write(data):
            return False
        num_tokens = len(delta.token_ids)
        self._watch.note_tokens(delta.index, num_tokens)
        self._usage.num_output_tokens += num_tokens
        return True


class EventPatterns:
    """Writes events of texts as `make` does, which is asked for one event of each completion: only texts differ."""

    def __init__(self, make: Callable[[int, str], bytes]) -> None:
        self._make = make
        self._patterns: dict[int, tuple[bytes, bytes]] = {}  # what comes before a text and after it, by completion

    def fill(self, index: int, text: str) -> bytes:
        """Return the event of a completion's text."""
        head, tail = self._patterns.get(index) or self._find(index)
        return head + encode(text) + tail

    def _find(self, index: int) -> tuple[bytes, bytes]:
        mark = "\x00text\x00"
        head, tail = self._make(index, mark).split(encode(mark))
        self._patterns[index] = head, tail
        return head, tail
