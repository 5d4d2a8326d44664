"""One division of a multiprocessor's fast memory for all kernels, so that a kernel can start beside the one ahead.

A multiprocessor divides that memory between its first-level cache and shared memory, by default as each kernel needs
it, and only while nothing runs on it. Kernels of a step that may start early (`quire_kernels_triton.launching`) need
different amounts: with one division for all, none waits for another's end. On an H200 that took 1–5 % off steps of 8 to
128 rows that start early (2026-12-01).
"""

from __future__ import annotations

import ctypes
from typing import Any

from triton import knobs

from quire.errors import BackendError
from quire_cuda.device import explain
from quire_cuda.manifest import DRIVER

PREFERRED_SHARED_MEMORY_CARVEOUT = 9  # of CUfunction_attribute
ALL_OF_IT = 100  # per cent


def prefer_shared_memory() -> None:
    """Have every kernel that Triton loads in this process from now on ask for as much shared memory as there is."""
    knobs.runtime.kernel_load_end_hook.add(ask_of_loaded)


def ask_of_loaded(module: Any, function: int, name: str, metadata: Any, digest: str) -> None:
    """Ask for a kernel that Triton has loaded. Triton's hook of that signature; called by the thread that loads."""
    ask(ctypes.CDLL(DRIVER), function, name)


def ask(driver: Any, function: int, name: str) -> None:
    """Ask the driver's library for a kernel's shared memory. Raise BackendError."""
    code = driver.cuFuncSetAttribute(
        ctypes.c_void_p(function), PREFERRED_SHARED_MEMORY_CARVEOUT, ctypes.c_int(ALL_OF_IT)
    )
    if code:
        raise BackendError(f"the driver did not take kernel {name}'s wish for shared memory: {explain(driver, code)}")
