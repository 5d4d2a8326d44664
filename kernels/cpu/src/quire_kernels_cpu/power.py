"""What a POWER processor can do, as the kernel tells each process. Standard library only."""

from __future__ import annotations

import struct
from pathlib import Path

AUXV = Path("/proc/self/auxv")
AT_HWCAP, AT_HWCAP2 = 16, 26  # of elf.h
HWCAP = {"vsx": 0x00000080}  # these bits and names are of the kernel's cputable.h and glibc's LD_SHOW_AUXV
HWCAP2 = {"arch_2_07": 0x80000000, "arch_3_00": 0x00800000, "arch_3_1": 0x00040000, "mma": 0x00020000}


def power_flags(auxv: bytes) -> frozenset[str]:
    """Return the features named in a little-endian 64-bit auxiliary vector."""
    whole = auxv[: len(auxv) // 16 * 16]
    values = dict(struct.iter_unpack("<QQ", whole))
    bits = [(HWCAP, values.get(AT_HWCAP, 0)), (HWCAP2, values.get(AT_HWCAP2, 0))]
    return frozenset(name for names, value in bits for name, bit in names.items() if value & bit)


def read_power_flags(path: Path = AUXV) -> frozenset[str]:
    """Return this processor's features; none where the kernel does not tell."""
    try:
        return power_flags(path.read_bytes())
    except OSError:
        return frozenset()
