"""Compile kernels for a GPU that is not here, exactly as they would be launched there.

A `DryDriver` takes the place of Triton's own: kernels are compiled for its target with the arguments that the ops give
them, and their launches do nothing. What a compiler can tell of a kernel is read from its output: registers, spills,
shared memory. Works on a CPU, without `TRITON_INTERPRET`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from triton import backends, knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

KIB = 1 << 10
SHARED_LIMITS: Mapping[str, int] = {
    "sm_80": 163 * KIB,
    "sm_86": 99 * KIB,
    "sm_89": 99 * KIB,
    "sm_90": 227 * KIB,
    "sm_100": 227 * KIB,
    "sm_120": 99 * KIB,
    "gfx90a": 64 * KIB,
    "gfx942": 64 * KIB,
    "gfx950": 160 * KIB,
    "gfx1100": 64 * KIB,
    "gfx1201": 64 * KIB,
}
"""Bytes of shared memory that one program may have, by family; Triton refuses none when it cross-compiles."""


class Resources(NamedTuple):
    """What a compiled kernel needs: 32-bit registers of one thread, bytes of memory that a thread spills them to, bytes
    of shared memory; and how many instructions for matrix units stand in its code."""

    name: str
    registers: int
    spills: int
    shared_bytes: int
    num_warps: int
    matrix_instructions: int

    def __str__(self) -> str:
        return (
            f"{self.name:24} {self.num_warps:2} warps {self.registers:4} registers {self.spills:4} spilled "
            f"{self.shared_bytes / KIB:6.1f} KiB shared {self.matrix_instructions:4} matrix instructions"
        )


class Counted(NamedTuple):
    """What a target's own files tell of a kernel."""

    registers: int
    spills: int
    matrix_instructions: int


def parse_target(name: str) -> GPUTarget:
    """Return the target of a name such as "cuda:90" or "hip:gfx942"."""
    backend, _, arch = name.partition(":")
    if backend == "cuda":
        return GPUTarget("cuda", int(arch), 32)
    return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)


def family_of(target: GPUTarget) -> str:
    """Return the name that tuned settings go by."""
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch)


class DryDriver:
    """A driver of a GPU that is not here."""

    def __init__(self, target: GPUTarget) -> None:
        self.utils = self
        self._target = target
        self._device = object()  # Triton keeps compiled kernels by device: a new one has none

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> object:
        return self._device

    def get_current_stream(self, device: object) -> int:
        return 0

    def get_device_properties(self, device: object) -> dict[str, int]:
        return {"max_shared_mem": 1 << 30}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: object) -> tuple[Any, ...]:
        return object(), object(), 0, 0, 1 << 10

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Return what launches a kernel: it does nothing."""
        return lambda *arguments, **options: None


@contextmanager
def dry_run(target: GPUTarget) -> Iterator[list[Resources]]:
    """Compile instead of launching, for `target`; yield the list that every kernel's needs are added to."""
    found: list[Resources] = []

    def remember(module: Any, function: Any, name: str, files: Mapping[str, str], hash: str) -> None:
        found.append(_resources(name, {Path(path).suffix: Path(path) for path in files.values()}))

    previous = driver._active
    driver.set_active(DryDriver(target))  # type: ignore[arg-type]
    knobs.runtime.kernel_load_end_hook.add(remember)
    try:
        yield found
    finally:
        knobs.runtime.kernel_load_end_hook.remove(remember)
        driver.set_active(previous)  # type: ignore[arg-type]


def _resources(name: str, files: Mapping[str, Path]) -> Resources:
    metadata = json.loads(files[".json"].read_text())
    read = _read_cubin if ".cubin" in files else _read_amdgcn
    counted = read(files)
    return Resources(
        name,
        counted.registers,
        counted.spills,
        metadata["shared"],
        metadata["num_warps"],
        counted.matrix_instructions,
    )


def _read_cubin(files: Mapping[str, Path]) -> Counted:
    """Take the stack for spills: what is spilled lies there, and these kernels put nothing else on it."""
    tool = Path(backends.__file__).parent / "nvidia/bin/cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(files[".cubin"])]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    products = re.findall(
        r"^\s*(?:@\S+ )?(?:wgmma\.mma_async|mma|tcgen05\.mma)\.", files[".ptx"].read_text(), re.MULTILINE
    )
    return Counted(_number(r"REG:(\d+)", text), _number(r"STACK:(\d+)", text), len(products))


def _read_amdgcn(files: Mapping[str, Path]) -> Counted:
    """Take vector registers and scratch; scalar registers are spilled into vector ones, which costs no memory."""
    text = files[".amdgcn"].read_text()
    products = re.findall(r"^\s*v_(?:mfma|wmma)_", text, re.MULTILINE)
    return Counted(_number(r"\.vgpr_count:\s+(\d+)", text), _number(r"ScratchSize: (\d+)", text), len(products))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern} in the compiler's report"
    return int(found[1])
