"""The executor interface, where the engine meets it. The types live in the contract, but for what only some can."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from quire.backend.contract import Executor, ExecutorContext, ExecutorFacts

__all__ = ["Executor", "ExecutorContext", "ExecutorFacts", "SuspendableExecutor"]


@runtime_checkable
class SuspendableExecutor(Protocol):
    """An executor at rest that can give its memory back for a while."""

    def suspend(self) -> int:
        """Save the weights on the host, give up their memory and that of the KV cache; return the bytes freed. Raise
        BackendError where the backend's allocator cannot."""
        ...

    def resume(self) -> None:
        """Take the memory again and put the weights back. Raise CapacityError."""
        ...
