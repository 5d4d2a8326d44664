"""Memory of an engine: what was planned, and what it measures."""

from __future__ import annotations

from typing import NamedTuple

from quire.execution.torch_executor import TorchExecutor
from quire.opening import OpenedEngine


class MemoryFigures(NamedTuple):
    """Bytes of weights, workspace, activations of a full step and KV cache together."""

    planned_bytes: int
    measured_bytes: int


def memory_figures(opened: OpenedEngine) -> MemoryFigures | None:
    """Return both, after a full step that is run to measure; None where a backend's own executor does the planning."""
    executor = opened.engine.executor
    if not isinstance(executor, TorchExecutor):
        return None
    return MemoryFigures(executor.runtime.plan.total_bytes, sum(executor.memory_report().values()))
