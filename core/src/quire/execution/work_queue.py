"""Where a step's device work is started from.

An accelerator takes work and returns at once, so the engine's own thread may start it. A device that computes in the
calling thread (`MemoryModel.UNIFIED`) would block it; with overlap such work runs on one thread of its own, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class WorkQueue(Protocol):
    def submit(self, work: Callable[[], T]) -> Callable[[], T]:
        """Start the work; return a function that waits for its result."""
        ...

    def close(self) -> None: ...


class InlineQueue:
    """Runs the work at once, in the caller's thread."""

    def submit(self, work: Callable[[], T]) -> Callable[[], T]:
        result = work()
        return lambda: result

    def close(self) -> None:
        """Nothing is held."""


class ThreadQueue:
    """Runs the work in order on one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quire-device")

    def submit(self, work: Callable[[], T]) -> Callable[[], T]:
        future: Future[T] = self._pool.submit(work)
        return future.result

    def close(self) -> None:
        self._pool.shutdown()
