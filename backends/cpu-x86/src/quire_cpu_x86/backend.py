"""The hooks of cpu-x86: those of every backend on the host's processors, with the x86-64 kernels."""

from __future__ import annotations

from quire_kernels_cpu.host.backend import HostBackend


class CpuX86Backend(HostBackend):
    """One opened backend."""

    provider = "cpu-x86"
    variants = ("avx2", "avx512", "avx512bf16")
