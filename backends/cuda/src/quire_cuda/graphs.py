"""Whole steps as CUDA graphs, one for each bucket and step function.

The first step of a bucket runs as it is, which also compiles what is not compiled yet; the second is captured, and from
then on the graph is replayed. So nothing is captured before it is needed, and no step is run twice. All graphs share
one pool of memory: they run one after another, and only their outputs outlive a replay.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from quire.backend.contract import Bucket, StepFunction
from quire.errors import CapacityError

FEW_ROWS = 8
LOWER = "lower memory_utilization, max_num_batched_tokens or max_num_seqs"
log = logging.getLogger("quire.cuda")


class GraphProgramBuilder:
    """The contract's ProgramBuilder."""

    def __init__(self, device: torch.device) -> None:
        self._recorder = Recorder(device)

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
        return GraphProgram(step_fn, bucket, self._recorder)


class GraphProgram:
    """A step function for one bucket. Its outputs are overwritten by its next call."""

    def __init__(self, step_fn: StepFunction, bucket: Bucket, recorder: Recorder) -> None:
        self._step_fn = step_fn
        self._bucket = bucket
        self._recorder = recorder
        self._recording: tuple[torch.cuda.CUDAGraph, Any] | None = None
        self._address = 0

    def __call__(self, buffers: Any, /) -> Any:
        """Run the step. Raise CapacityError when the device has no memory left for it."""
        address = buffers[0].data_ptr()
        if self._recording is not None:
            assert address == self._address, f"the inputs of {self._bucket} have moved since it was captured"
            graph, outputs = self._recording
            graph.replay()
            return outputs
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

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._gave_up = False

    def record(self, step_fn: StepFunction, buffers: Any) -> tuple[torch.cuda.CUDAGraph, Any] | None:
        """Return the graph and the outputs that its replays write; None: the step cannot be captured."""
        if self._gave_up:
            return None
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                outputs = _capture(graph, self._pool, step_fn, buffers)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._gave_up = True
            log.warning("steps run without CUDA graphs, as with enforce_eager=True: capturing one failed: %s", error)
            return None
        current.wait_stream(self._stream)
        return graph, outputs


def _capture(graph: torch.cuda.CUDAGraph, pool: Any, step_fn: StepFunction, buffers: Any) -> Any:
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")  # other threads may use the device meanwhile
    try:
        outputs = step_fn(buffers)
    except BaseException:
        _abandon(graph)
        raise
    graph.capture_end()
    return outputs


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
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
