"""The shared libraries: found, loaded beside torch's OpenMP, and their functions bound with argument types."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_double, c_int64, c_void_p
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch

from quire_kernels_cpu.isa import choose_variant, cpu_flags

FOLDER = Path(__file__).parent
MAPS = Path("/proc/self/maps")
OPENMP_NAMES = re.compile(r"lib(gomp|iomp5|omp)\b[^/]*\.so[^/]*$")

FORMATS = {
    "linear": "4P10q",
    "norm_linear": "6P8qd",
    "pack_panels": "2P5q",
    "moe": "6P7q",
    "embedding": "3P3q",
    "paged_attention": "8P18q2d",
    "kv_write": "5P17q",
    "rope": "4P11q",
    "qkv_rope_write": "9P17qd",
    "rms_norm": "3P5qd",
    "add_rms_norm": "3P5qd",
    "gated": "2P5q",
    "sample": "8P4q",
    "draw_tokens": "10P5q",
    "gather_step": "9P6q",
    "select_rows": "4P3q",
    "apply_penalties": "6P3q",
}
"""The arguments of each kernel as `struct` packs them: pointers, integers, doubles, in the order of its C struct."""


class KernelCall(NamedTuple):
    """One call: the kernel, and its packed arguments."""

    kernel: Any
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Library:
    """One loaded variant. `listeners` are told of every kernel call, after it."""

    variant: str
    path: Path
    openmp: str  # path of the OpenMP runtime that it runs on
    handle: ctypes.CDLL
    listeners: list[Callable[[KernelCall], None]] = field(default_factory=list)

    def function(self, name: str) -> Callable[..., None]:
        """Return a kernel as a function of numbers; a null pointer is 0. Raise OSError if its arguments differ."""
        arguments = struct.Struct(FORMATS[name])
        size = getattr(self.handle, f"quire_{name}_bytes")
        size.restype = c_int64
        if size() != arguments.size:
            raise OSError(f"{self.path.name} is of another version of quire-kernels-cpu; reinstall it")
        function, pack = getattr(self.handle, f"quire_{name}"), arguments.pack
        function.argtypes, function.restype = [c_char_p], None
        listeners = self.listeners

        def call(*values: float) -> None:
            packed = pack(*values)
            function(packed)
            for listen in listeners:
                listen(KernelCall(function, packed))

        return call

    def replay(self, calls: Sequence[KernelCall]) -> Callable[[], None]:
        """Return a function that makes these calls again, in one. What their pointers point to must be kept alive."""
        arguments = [(c_int64 * (len(call.arguments) // 8)).from_buffer_copy(call.arguments) for call in calls]
        kernels = [ctypes.cast(call.kernel, c_void_p).value for call in calls]
        table = (c_int64 * (2 * len(calls)))(
            *chain.from_iterable(zip(kernels, map(ctypes.addressof, arguments), strict=True))
        )
        function = self.handle.quire_replay
        function.argtypes, function.restype = [c_void_p, c_int64], None

        def run(kept: object = arguments) -> None:
            function(table, len(calls))

        return run

    @property
    def compiler(self) -> str:
        """Return what compiled it."""
        self.handle.quire_compiler.restype = c_char_p
        return str(self.handle.quire_compiler().decode())

    def panel_unit(self, dtype: int, num_rows: int, num_columns: int) -> int:
        """Return how many elements lie together in panels of a weight of this shape; 0: it cannot have panels."""
        function = self.handle.quire_panel_unit
        function.argtypes, function.restype = [c_int64] * 3, c_int64
        return int(function(dtype, num_rows, num_columns))

    def pin_threads(self, cpus: list[int]) -> int:
        """Bind thread i of the pool to cpus[i]; return how many could be bound."""
        function = self.handle.quire_pin_threads
        function.argtypes, function.restype = [c_void_p, c_int64], c_int64
        return int(function((c_int64 * len(cpus))(*cpus), len(cpus)))

    def read_memory(self, tensor: torch.Tensor, threads: int) -> float:
        """Sum a float32 tensor, reading it once: to measure the memory's rate."""
        function = self.handle.quire_read_memory
        function.argtypes, function.restype = [c_void_p, c_int64, c_int64], c_double
        return float(function(tensor.data_ptr(), tensor.numel(), threads))


def load_library(variant: str | None = None) -> Library:
    """Load a variant (None: the environment's choice or the best). Raise ValueError, or OSError if it is not built."""
    name = choose_variant(cpu_flags(), variant)
    path = FOLDER / f"libquire_{name}.so"
    if not path.exists():
        raise OSError(f"{path.name} was not built; reinstall quire-kernels-cpu on this machine")
    openmp = share_openmp()
    return Library(name, path, openmp, ctypes.CDLL(str(path)))


def share_openmp() -> str:
    """Make the symbols of torch's OpenMP runtime visible and return its path; the system's where torch brings none.

    Two runtimes in one process would be two pools of threads that fight for the same cores.
    """
    mapped = [line.split()[-1] for line in MAPS.read_text().splitlines() if OPENMP_NAMES.search(line)]
    path = mapped[0] if mapped else "libgomp.so.1"
    ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    return path
