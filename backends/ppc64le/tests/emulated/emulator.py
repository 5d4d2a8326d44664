"""A library for ppc64le on another machine: qemu runs it in a process of its own, on this process's memory.

`EmulatedHandle` stands where `ctypes.CDLL` would: what it gives for a function's name can be called with numbers, bytes
and ctypes arrays. So the package's own Python code calls the kernels, and knows no difference. See driver.cpp.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quire_kernels_cpu.library import Library

QEMU = "qemu-ppc64le-static"
SYSROOT = "/usr/powerpc64le-linux-gnu"  # where Debian's cross compiler has its libraries
CALL = struct.Struct("<10q")
MAX_ARGUMENTS = 8
RETURNS = {ctypes.c_double: "d", ctypes.c_char_p: "s"}
PROCESSORS = {"generic": "power8", "power8": "power8", "power9": "power9", "power10": "power10"}
"""The oldest processor that each variant is for: qemu refuses the instructions of newer ones."""


class Emulator:
    """One emulated process with one library. A forked child, whose memory is another, starts its own."""

    def __init__(self, folder: Path, variant: str) -> None:
        self._command = [QEMU, "-cpu", PROCESSORS[variant], "-L", SYSROOT, str(folder / "driver")]
        self._command.append(str(folder / f"libquire_{variant}.so"))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def call(self, name: str, returns: str, arguments: Sequence[int]) -> Any:
        """Call a function. Raise RuntimeError when the emulated process dies of it."""
        padded = [*arguments, *[0] * (MAX_ARGUMENTS - len(arguments))]
        with self._lock:
            process = self._started()
            process.stdin.write(CALL.pack(ord(returns), *padded, len(name)) + name.encode())
            process.stdin.flush()
            result = self._read(process, 8, name)
            if returns == "s":
                return self._read(process, int.from_bytes(result, "little"), name)
            return struct.unpack("<d" if returns == "d" else "<q", result)[0]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            memory = os.open("/proc/self/mem", os.O_RDWR)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen([*self._command, str(memory)], pass_fds=[memory], **pipes)
            self._owner = os.getpid()
            os.close(memory)
        return self._process

    def _read(self, process: subprocess.Popen[bytes], size: int, name: str) -> bytes:
        data = process.stdout.read(size)
        if len(data) < size:
            self._process = None
            raise RuntimeError(f"the emulated process ended with {process.wait()} in {name}; it says why on stderr")
        return data


class EmulatedFunction:
    """One function, with ctypes' attributes."""

    def __init__(self, emulator: Emulator, name: str) -> None:
        self._emulator = emulator
        self._name = name
        self.argtypes: Sequence[Any] = ()
        self.restype: Any = None

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        """Its address in the emulated process, for `ctypes.cast`."""
        return ctypes.c_void_p(self._emulator.call(self._name, "a", ()))

    def __call__(self, *arguments: Any) -> Any:
        values = [address_or_value(argument) for argument in arguments]
        return self._emulator.call(self._name, RETURNS.get(self.restype, "q"), values)


def address_or_value(argument: Any) -> int:
    """Return a number as it is, and where anything else lies in memory."""
    if isinstance(argument, bytes):
        return ctypes.cast(ctypes.c_char_p(argument), ctypes.c_void_p).value or 0
    return int(argument) if isinstance(argument, int) else ctypes.addressof(argument)


class EmulatedHandle:
    """A loaded library."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._functions: dict[str, EmulatedFunction] = {}

    def __getattr__(self, name: str) -> EmulatedFunction:
        return self._functions.setdefault(name, EmulatedFunction(self._emulator, name))


def load_emulated(folder: Path, variant: str) -> Library:
    """Return a library that `folder` holds beside the driver."""
    path = folder / f"libquire_{variant}.so"
    if not path.exists():
        raise OSError(f"{path} was not built")
    return Library(variant, path, "libgomp.so.1", EmulatedHandle(Emulator(folder, variant)), [])
