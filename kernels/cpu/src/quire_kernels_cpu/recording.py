"""Programs: what a small decode step computes, recorded once and replayed with hardly any Python (as CUDA graphs do).

A step of few rows is a hundred kernel calls of a few microseconds; finding their arguments takes Python a tenth of the
step. Recording runs the step function once and notes each call with its packed arguments, and what torch computes in
between. Everything that was allocated is kept, so that the addresses stay right; inputs are read at fixed addresses
anyway. A function that reads a value on the host cannot be recorded and runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quire.backend.contract import Bucket, Program, StepFunction
from quire_kernels_cpu.library import KernelCall, Library

DECODE_ROWS = (1, 2, 4, 8)
"""Rows of the steps worth recording. With more, the kernels take so long that Python is hardly seen."""

HOST_READS = frozenset({"aten::resolve_conj", "aten::resolve_neg"})
"""What torch calls, in inference mode, before it hands an array to Python."""

DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class RecordingBuilder:
    """Builds programs over one library, for decode steps of few rows."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def buckets(self, max_tokens: int, max_rows: int) -> Sequence[Bucket]:
        """Return the sizes that are recorded, smallest first."""
        return [Bucket(rows, rows, decode=True) for rows in DECODE_ROWS if rows <= min(max_tokens, max_rows)]

    def build(self, step_fn: StepFunction, bucket: Bucket, example: Any) -> Program:
        """Run the step once, recording it; return the function itself if it reads values on the host."""
        try:
            with torch.inference_mode(), Recording(self._library) as recording:
                outputs = step_fn(example)
        except HostReadError:
            return step_fn
        return RecordedProgram(self._library, recording.notes, outputs)


class RecordedProgram:
    """A recorded step. Its outputs are the same tensors each time."""

    def __init__(self, library: Library, notes: Sequence[Note], outputs: Any) -> None:
        self._notes = notes  # they hold the tensors whose addresses are used
        self._steps = list(_steps(library, notes))
        self._outputs = outputs

    def __call__(self, buffers: Any, /) -> Any:
        """Compute the step anew from the buffers that it was recorded with."""
        for step in self._steps:
            step()
        return self._outputs


class HostReadError(Exception):
    """The step asks for a value of a tensor: its course depends on data."""


class Recording(TorchDispatchMode):
    """Notes kernel calls of a library and operations of torch, in order, while it is entered."""

    def __init__(self, library: Library) -> None:
        super().__init__()
        self._library = library
        self.notes: list[Note] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say no: to keep its compiler away, torch would import it first, which takes a second."""
        return False

    def __enter__(self) -> Recording:
        self._library.listeners.append(self.notes.append)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        self._library.listeners.remove(self.notes.append)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of torch and note it. Raise HostReadError if Python is to see its value."""
        if func._schema.name in HOST_READS or DATA_DEPENDENT & set(func.tags):
            raise HostReadError(func._schema.name)
        result = func(*args, **(kwargs or {}))
        self.notes.append(TorchCall(func, args, kwargs or {}, result))
        return result


class TorchCall:
    """An operation of torch with its operands; `repeat` brings its result up to date."""

    def __init__(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._func, self._args, self._kwargs = func, args, kwargs
        self._results = _tensors(result)
        held = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        self._computed = [index for index, tensor in enumerate(self._results) if _storage(tensor) not in held]

    @property
    def idle(self) -> bool:
        """Say whether there is nothing to repeat: a view, or memory that is written later."""
        schema = self._func._schema
        return "empty" in schema.name or not (self._computed or schema.is_mutable)

    def repeat(self) -> None:
        """Run it again on the same operands, into the same results."""
        again = _tensors(self._func(*self._args, **self._kwargs))
        for index in self._computed:
            self._results[index].copy_(again[index])


Note = KernelCall | TorchCall


def _steps(library: Library, notes: Sequence[Note]) -> Iterator[Callable[[], None]]:
    """Yield what to call, in order: kernels that follow each other are one call."""
    needed = [note for note in notes if isinstance(note, KernelCall) or not note.idle]
    for kernels, group in groupby(needed, key=lambda note: isinstance(note, KernelCall)):
        if kernels:
            yield library.replay(list(group))
        else:
            yield from (note.repeat for note in group)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
