"""The queue before the scheduler: who waits, in which order, and when it is full."""

from __future__ import annotations

import heapq
from typing import Literal, NamedTuple

from quire.errors import QueueFullError
from quire.scheduling.request import Request


class QueueKey(NamedTuple):
    """Order of admission, smallest first. First come, first served leaves `priority` and `arrival` 0."""

    priority: int
    arrival: float
    sequence: int


class AdmissionQueue:
    """Waiting requests by policy. A preempted request comes back to its old place, so before all that came later.

    Removing a request only forgets it; its entry is dropped when it comes to the front.
    """

    def __init__(
        self, policy: Literal["fcfs", "priority"], max_requests: int | None = None, max_tokens: int | None = None
    ) -> None:
        self.num_tokens = 0
        self._by_priority = policy == "priority"
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._heap: list[tuple[QueueKey, Request]] = []
        self._keys: dict[str, QueueKey] = {}  # of every request the scheduler holds: its place, should it come back
        self._waiting: dict[str, int] = {}  # request id → its tokens when it joined
        self._aside: list[Request] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def lengths(self) -> dict[str, int]:
        """Return how many tokens each waiting request had when it joined, by its id."""
        return dict(self._waiting)

    def check_room(self, num_tokens: int, num_coming: int = 0, num_coming_tokens: int = 0) -> None:
        """Raise QueueFullError if one more request, of `num_tokens`, would pass a limit.

        `num_coming` requests of together `num_coming_tokens` are on their way here. Thread: any.
        """
        requests, tokens = len(self) + num_coming, self.num_tokens + num_coming_tokens + num_tokens
        if self._max_requests is not None and requests >= self._max_requests:
            raise QueueFullError(
                f"{requests} requests wait already; max_queued_requests is {self._max_requests}; try again later"
            )
        if self._max_tokens is not None and tokens > self._max_tokens and requests > 0:
            raise QueueFullError(
                f"{tokens} tokens would wait; max_queued_tokens is {self._max_tokens}; try again later"
            )

    def add(self, request: Request) -> None:
        """Put a request in line, at its old place if it had one."""
        key = self._keys.get(request.request_id) or self._new_key(request)
        self._keys[request.request_id] = key
        self._waiting[request.request_id] = request.num_tokens
        self.num_tokens += request.num_tokens
        heapq.heappush(self._heap, (key, request))

    def first(self) -> Request | None:
        """Return the request whose turn it is, without removing it."""
        heap = self._heap
        while heap and not self._is_current(heap[0]):
            heapq.heappop(heap)
        return heap[0][1] if heap else None

    def pop(self) -> Request:
        """Remove the request whose turn it is; its place is remembered until `forget`."""
        request = self.first()
        assert request is not None, "pop from an empty admission queue"
        heapq.heappop(self._heap)
        self._leave(request)
        return request

    def set_aside(self) -> None:
        """Pass over the first request until `restore`."""
        self._aside.append(self.pop())

    def restore(self) -> None:
        """Put back all that were set aside."""
        for request in self._aside:
            self.add(request)
        self._aside.clear()

    def remove(self, request: Request) -> None:
        """Take a waiting request out of line."""
        if request.request_id in self._waiting:
            self._leave(request)

    def forget(self, request: Request) -> None:
        """Give up the place of a request that is done."""
        self.remove(request)
        self._keys.pop(request.request_id, None)

    def order(self, request: Request) -> QueueKey:
        """Return a held request's place: the largest is the first to be preempted."""
        return self._keys[request.request_id]

    def _new_key(self, request: Request) -> QueueKey:
        self._sequence += 1
        if self._by_priority:
            return QueueKey(request.priority, request.arrival, self._sequence)
        return QueueKey(0, 0.0, self._sequence)

    def _leave(self, request: Request) -> None:
        self.num_tokens -= self._waiting.pop(request.request_id)

    def _is_current(self, entry: tuple[QueueKey, Request]) -> bool:
        """Whether an entry still stands for a waiting request, and not for one that left and whose id came again."""
        request_id = entry[1].request_id
        return request_id in self._waiting and self._keys.get(request_id) == entry[0]
