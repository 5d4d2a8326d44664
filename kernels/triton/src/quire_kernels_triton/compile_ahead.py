"""Compile kernels side by side: launched one after another, each kernel of a first step would wait for its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.runtime.jit import JITFunction

ALLOCATIONS = (torch.empty, torch.empty_like)


class Zeroed(TorchFunctionMode):
    """Fill new memory with zeros: what a kernel that is not launched leaves unwritten may be read as indices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.zero_() if func in ALLOCATIONS else made


class Wanted:
    """The kernels that launches on one thread found not compiled. Those launches did nothing."""

    def __init__(self) -> None:
        self.kernels: dict[str, tuple[JITFunction[Any], str]] = {}
        self._thread = threading.get_ident()

    def note(self, *, repr: str, fn: Any, compile: dict[str, Any], is_manual_warmup: bool, **_: Any) -> bool:
        """Take one kernel; return whether its launch shall be left out. Triton's hook of that signature."""
        if is_manual_warmup or threading.get_ident() != self._thread:
            return False
        self.kernels.setdefault(f"{repr} {compile['key']}", (fn.jit_function, compile["specialization_data"]))
        return True


def compile_together(calls: Sequence[Callable[[], Any]], set_device: Callable[[], None]) -> int:
    """Compile what the calls would launch, on all processors; return how many kernels that were.

    The calls run, on zeros where a kernel's output would be, and what is compiled already is launched: they must not
    matter. `set_device` makes the current device that of the calls, on each compiling thread.
    """
    wanted = Wanted()
    with _hooked(wanted.note), Zeroed():
        for call in calls:
            call()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=set_device) as pool:
        for made in [pool.submit(_make, function, data) for function, data in wanted.kernels.values()]:
            made.result()
    return len(wanted.kernels)


def _make(function: JITFunction[Any], specialization: str) -> Any:
    """Compile a kernel, and what launches it: a C function for each signature, which Triton makes when it is asked."""
    return function.preload(specialization).run


@contextmanager
def _hooked(note: Callable[..., bool]) -> Iterator[None]:
    previous = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note  # type: ignore[assignment]
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = previous
