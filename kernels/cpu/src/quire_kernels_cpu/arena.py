"""Memory for the large outputs of kernels: cut from huge pages, and cut again when their tensors are gone.

All of a step's tensors are dead when it ends, so the next one begins with an empty arena, and the process holds what
the fullest step held at once. malloc fits where small blocks have come to lie between: a first step of 8,192 tokens,
whose tensors took 160 MB at once, took 420 MB of its heap.
"""

from __future__ import annotations

import math
import weakref
from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch

from quire.errors import CapacityError
from quire_kernels_cpu.memory import ALIGNMENT, map_huge_pages

CHUNK = 1 << 30
"""Bytes of address space that are reserved at a time; memory is taken when it is first written."""

PADDING = 5 * ALIGNMENT
"""Free bytes after each tensor, so that tensors of a power of two do not share the sets of a cache."""


class Span(NamedTuple):
    """Bytes [start, end) of a chunk."""

    chunk: int
    start: int
    end: int


class Arena:
    """Gives tensors, first fit. Thread: one thread asks; tensors may die on any."""

    def __init__(self) -> None:
        self._chunks: list[memoryview] = []
        self._free: list[Span] = []  # in order, none touching the next
        self._returned: deque[Span] = deque()  # a tensor may die at any moment, also amid a change of `_free`

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor, uninitialised. Raise CapacityError when the system has no room."""
        num_bytes = math.prod(shape) * dtype.itemsize
        span = self._take(-(-num_bytes // ALIGNMENT) * ALIGNMENT + PADDING)
        view = self._chunks[span.chunk][span.start : span.start + num_bytes]
        weakref.finalize(view, self._returned.append, span).atexit = False
        storage = torch.frombuffer(view, dtype=torch.uint8).untyped_storage()  # holds the view
        return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))

    def _take(self, num_bytes: int) -> Span:
        while self._returned:
            self._put(self._returned.popleft())
        fitting = (index for index, free in enumerate(self._free) if free.end - free.start >= num_bytes)
        index = next(fitting, None)
        if index is None:
            index = self._grow(num_bytes)
        free = self._free[index]
        taken = free._replace(end=free.start + num_bytes)
        self._free[index : index + 1] = [] if taken == free else [free._replace(start=taken.end)]
        return taken

    def _put(self, span: Span) -> None:
        """Add a span, joined with those that it touches."""
        for free in [free for free in self._free if free.chunk == span.chunk]:
            if free.end == span.start or span.end == free.start:
                self._free.remove(free)
                span = span._replace(start=min(free.start, span.start), end=max(free.end, span.end))
        insort(self._free, span)

    def _grow(self, num_bytes: int) -> int:
        """Map a chunk; return the index of its span."""
        try:
            chunk = map_huge_pages(max(CHUNK, num_bytes), "activations")
        except CapacityError:  # a system that counts what is only reserved
            chunk = map_huge_pages(num_bytes, "activations")
        self._chunks.append(memoryview(chunk))
        self._free.append(Span(len(self._chunks) - 1, 0, len(chunk)))
        return len(self._free) - 1
