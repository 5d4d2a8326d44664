"""Which instruction sets this machine has, and which compiled variant fits. Standard library only."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple

from quire_kernels_cpu.power import read_power_flags

ENVIRONMENT = "QUIRE_CPU_ISA"
"""Environment variable that names the variant to use, e.g. `avx2` on a machine with AVX-512: for comparisons."""

CPUINFO = Path("/proc/cpuinfo")


class Variant(NamedTuple):
    """A compiled library and the CPU flags (as the kernel names them) that it needs."""

    name: str
    flags: frozenset[str]


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}

VARIANTS = (
    Variant("avx512bf16", _AVX512 | {"avx512_bf16"}),
    Variant("avx512", _AVX512),
    Variant("avx2", _AVX2),
    Variant("power10", frozenset({"vsx", "arch_3_1", "mma"})),
    Variant("power9", frozenset({"vsx", "arch_3_00"})),
    Variant("power8", frozenset({"vsx", "arch_2_07"})),
    Variant("generic", frozenset()),
)
"""Best first, of every architecture: their flags have no names in common."""


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the first processor's flags; none where the kernel does not list them."""
    if platform.machine() == "ppc64le":
        return read_power_flags()
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def usable_variants(flags: frozenset[str]) -> tuple[str, ...]:
    """Return the variants that a processor with these flags can run, best first."""
    return tuple(variant.name for variant in VARIANTS if variant.flags <= flags)


def choose_variant(flags: frozenset[str], wanted: str | None = None) -> str:
    """Return `wanted`, else what the environment names, else the best. Raise ValueError on one that cannot run."""
    usable = usable_variants(flags)
    wanted = wanted or os.environ.get(ENVIRONMENT)
    if wanted is None:
        return usable[0]
    if wanted not in usable:
        raise ValueError(f"instruction set {wanted!r} cannot run here; this processor runs {', '.join(usable)}")
    return wanted
