"""Whole steps as captured graphs, one for each bucket and step function.

The first step of a bucket runs as it is, which also compiles what is not compiled yet; the second is captured, and from
then on the graph is replayed. So nothing is captured before it is needed, and no step is run twice. All graphs share
one pool of memory: they run one after another, and only their outputs outlive a replay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol

import torch

from quire.backend.contract import Bucket, StepFunction
from quire.errors import CapacityError
from quire.execution.inputs import StepBuffers, one_row

FEW_ROWS = 8
LOWER = "lower memory_utilization, max_num_batched_tokens or max_num_seqs"
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
log = logging.getLogger("quire.graphs")


class Graph(Protocol):
    """One captured graph, as torch's classes of that name are."""

    def capture_begin(self, pool: Any, **options: Any) -> None: ...
    def capture_end(self) -> None: ...
    def replay(self) -> None: ...


class GraphApi(NamedTuple):
    """How torch captures graphs on a device: its module of the device type (streams, pools of memory), the class of its
    graphs, and the options of `capture_begin`."""

    runtime: ModuleType
    new_graph: Callable[[], Graph]
    options: Mapping[str, Any] = NO_OPTIONS


class Recording(NamedTuple):
    """A graph, and the outputs that its replays write."""

    graph: Graph
    outputs: Any


Prepare = Callable[[Sequence[Callable[[], Any]]], Any]
"""Makes ready what some calls need, for instance compiles their kernels side by side. The calls may be run for it."""


class GraphProgramBuilder:
    """The contract's ProgramBuilder. Before the first step of all, when no row holds anything, `prepare` is given that
    step and a decode of one row."""

    def __init__(self, device: torch.device, api: GraphApi, prepare: Prepare | None = None) -> None:
        self._recorder = Recorder(device, api)
        self._prepare = prepare

    def buckets(self, max_tokens: int, max_rows: int) -> Sequence[Bucket]:
        """Return decode buckets for every size that pays, and mixed ones in coarser steps, for few rows and for all."""
        max_rows = min(max_rows, max_tokens)
        decode = {Bucket(size, size, True) for size in _up_to(max_rows, decode_sizes())}
        mixed = {
            Bucket(size, rows, False)
            for size in _up_to(max_tokens, token_sizes())
            for rows in (min(FEW_ROWS, max_rows), max_rows)
            if rows <= size
        }
        return sorted(decode | mixed, key=lambda bucket: (bucket.num_tokens, bucket.num_rows, not bucket.decode))

    def build(self, step_fn: StepFunction, bucket: Bucket, example: Any) -> GraphProgram:
        """Return a program that captures itself when it is called for the second time."""
        if self._prepare is not None and isinstance(example, StepBuffers):
            self._prepare([partial(step_fn, example), partial(step_fn, one_row(example))])
            self._prepare = None
        return GraphProgram(step_fn, bucket, self._recorder)


class GraphProgram:
    """A step function for one bucket. Its outputs are overwritten by its next call."""

    def __init__(self, step_fn: StepFunction, bucket: Bucket, recorder: Recorder) -> None:
        self._step_fn = step_fn
        self._bucket = bucket
        self._recorder = recorder
        self._recording: Recording | None = None
        self._address = 0

    def __call__(self, buffers: Any, /) -> Any:
        """Run the step. Raise CapacityError when the device has no memory left for it."""
        address = buffers[0].data_ptr()
        if self._recording is not None:
            assert address == self._address, f"the inputs of {self._bucket} have moved since it was captured"
            self._recording.graph.replay()
            return self._recording.outputs
        try:
            return self._record_or_run(buffers, address)
        except torch.OutOfMemoryError as error:
            raise CapacityError(f"no memory left for a step of {self._bucket}: {error}; {LOWER}") from error

    def _record_or_run(self, buffers: Any, address: int) -> Any:
        if address == self._address:
            self._recording = self._recorder.record(self._step_fn, buffers)
        self._address = address
        return self._step_fn(buffers) if self._recording is None else self(buffers)


class Recorder:
    """Captures step functions on a stream of its own, into one pool of memory.

    A step that reads on the host cannot be captured. That is said once, with what stood in the way, and from then on
    every step runs as it is.
    """

    def __init__(self, device: torch.device, api: GraphApi) -> None:
        self._api = api
        self._pool = api.runtime.graph_pool_handle()
        self._stream = api.runtime.Stream(device)
        self._gave_up = False

    def record(self, step_fn: StepFunction, buffers: Any) -> Recording | None:
        """Return what was captured; None: the step cannot be."""
        if self._gave_up:
            return None
        current = self._api.runtime.current_stream()
        self._stream.wait_stream(current)
        try:
            with self._api.runtime.stream(self._stream):
                recording = self._capture(step_fn, buffers)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._gave_up = True
            log.warning("steps run without graphs, as with enforce_eager=True: capturing one failed: %s", error)
            return None
        current.wait_stream(self._stream)
        return recording

    def _capture(self, step_fn: StepFunction, buffers: Any) -> Recording:
        graph = self._api.new_graph()
        graph.capture_begin(pool=self._pool, **self._api.options)
        try:
            outputs = step_fn(buffers)
        except BaseException:
            _abandon(graph)
            raise
        graph.capture_end()
        return Recording(graph, outputs)


def _abandon(graph: Graph) -> None:
    """End a capture that has failed already: its end can only say so again."""
    try:
        graph.capture_end()
    except RuntimeError:
        return


def decode_sizes() -> Iterator[int]:
    """Yield numbers of rows: close together where a step is short."""
    yield from (1, 2, 4)
    yield from range(8, 64, 8)
    yield from range(64, 256, 16)
    size = 256
    while True:
        yield size
        size += 32


def token_sizes() -> Iterator[int]:
    """Yield numbers of tokens: padding costs at most a half of the shortest steps, and an eighth of long ones."""
    yield from (16, 32, 64, 128, 192, 256, 384, 512)
    size = 768
    while True:
        yield size
        size += 256 if size < 2048 else 1024 if size < 16384 else 4096


def _up_to(limit: int, sizes: Iterator[int]) -> Iterator[int]:
    """Yield the sizes below a limit, and then the limit."""
    for size in sizes:
        if size >= limit:
            break
        yield size
    yield limit
