"""Whole steps as CUDA graphs, one for each bucket and step function.

The first step of a bucket runs as it is, which also compiles what is not compiled yet; the second is captured, and from
then on the graph is replayed. So nothing is captured before it is needed, and no step is run twice. All graphs share
one pool of memory: they run one after another, and only their outputs outlive a replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from quire.backend.contract import Bucket, StepFunction
from quire.errors import BackendError, CapacityError

FEW_ROWS = 8
LOWER = "lower memory_utilization, max_num_batched_tokens or max_num_seqs"


class GraphProgramBuilder:
    """The contract's ProgramBuilder."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

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
        return GraphProgram(step_fn, bucket, self._pool, self._stream)


class GraphProgram:
    """A step function for one bucket. Its outputs are overwritten by its next call."""

    def __init__(self, step_fn: StepFunction, bucket: Bucket, pool: Any, stream: torch.cuda.Stream) -> None:
        self._step_fn = step_fn
        self._bucket = bucket
        self._pool = pool
        self._stream = stream
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Any = None
        self._address = 0

    def __call__(self, buffers: Any, /) -> Any:
        """Run the step. Raise CapacityError, or BackendError if it cannot be captured."""
        address = buffers[0].data_ptr()
        if self._graph is not None:
            assert address == self._address, f"the inputs of {self._bucket} have moved since it was captured"
            self._graph.replay()
            return self._outputs
        if self._address != address:
            self._address = address
            return self._guarded(buffers)
        self._capture(buffers)
        return self(buffers)

    def _guarded(self, buffers: Any) -> Any:
        try:
            return self._step_fn(buffers)
        except torch.OutOfMemoryError as error:
            raise CapacityError(f"no memory left for a step of {self._bucket}: {error}; {LOWER}") from error

    def _capture(self, buffers: Any) -> None:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            # Other threads may go on using the device meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = self._guarded(buffers)
            except CapacityError:
                _abandon(graph)
                raise
            except Exception as error:
                _abandon(graph)
                why = f"a step of {self._bucket} cannot be captured: {error}"
                raise BackendError(f"{why}; set enforce_eager=True, and report the kernel") from error
            graph.capture_end()
        current.wait_stream(self._stream)
        self._graph, self._outputs = graph, outputs


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


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
    """End a capture that has failed: that it fails is all it has to say."""
    try:
        graph.capture_end()
    except RuntimeError:
        return
