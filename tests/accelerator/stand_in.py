"""A device type of the tests' own, in the host's memory: streams that run at once, graphs that record calls of torch.

`RUNTIME` is what torch's module of a device type offers, as far as `quire.backend.accelerator` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quire.backend.accelerator.graphs import GraphApi

NAME, MEMORY = "Stand-in 1", (3 << 30, 4 << 30)
HOST_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Stream:
    """Work is done when its call returns."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        """Return at once."""


class Event:
    """Counts that it was recorded before it is waited for."""

    def __init__(self) -> None:
        self.recorded = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded, "an event is waited for that was never recorded"


class RecordedGraph:
    """Replays the calls that were made while it was captured, into the tensors that they gave then."""

    def __init__(self) -> None:
        self.replays = 0
        self._recorder = Recorder()

    def capture_begin(self, pool: Any, **options: Any) -> None:
        self._recorder.__enter__()

    def capture_end(self) -> None:
        self._recorder.__exit__(None, None, None)
        self._recorder.undo()

    def replay(self) -> None:
        self.replays += 1
        for function, arguments, options, results in self._recorder.calls:
            for old, new in zip(results, tree_leaves(function(*arguments, **options)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    """Keeps every call of torch. As while a device captures, nothing changes and nothing is read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def undo(self) -> None:
        """Put back what calls have changed in place."""
        for changed, before in reversed(self._before):
            changed.copy_(before)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in HOST_READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        if func._schema.is_mutable:
            self._before += [(item, item.clone()) for item in tree_leaves(args) if isinstance(item, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tree_leaves(result)))
        return result


@contextmanager
def stream(chosen: Stream) -> Iterator[None]:
    yield


RUNTIME: Any = SimpleNamespace(
    Event=Event,
    Stream=Stream,
    current_stream=Stream,
    device_count=lambda: 2,
    empty_cache=lambda: None,
    get_device_name=lambda index: f"{NAME}{index}",
    graph_pool_handle=lambda: (0, 1),
    manual_seed=torch.manual_seed,
    mem_get_info=lambda device: MEMORY,
    set_device=lambda device: None,
    stream=stream,
    synchronize=lambda device: None,
)
GRAPHS = GraphApi(RUNTIME, RecordedGraph)
