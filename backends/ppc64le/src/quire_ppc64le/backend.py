"""The hooks of ppc64le: those of every backend on the host's processors, with the POWER kernels."""

from __future__ import annotations

from quire.backend.contract import ConformanceProfile
from quire_kernels_cpu.host.backend import HostBackend


class Ppc64leBackend(HostBackend):
    """One opened backend."""

    provider = "ppc64le"
    variants = ("power8", "power9", "power10")
    profile = ConformanceProfile(
        levels=tuple(range(8)), support="runs emulated (qemu, op level); no POWER machine has run it"
    )
