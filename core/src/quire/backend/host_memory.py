"""How much memory this process holds, and may still take: the machine's, or less where a control group has a limit."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from quire.backend.contract import MemoryInfo

CGROUP_ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


class _Version(NamedTuple):
    """What one version of control groups calls its files, and the field of `memory.stat` that can be reclaimed."""

    folder: str
    limit: str
    usage: str
    reclaimable: str


_V1 = _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version("", "memory.max", "memory.current", "inactive_file")


def resident_bytes() -> int | None:
    """Return what this process holds of the machine's memory now; None where the system does not tell."""
    fields = _read(Path("/proc/self/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else None


def give_back_freed() -> None:
    """Give the system what was freed and malloc keeps, where the C library can (glibc)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def host_memory(cgroup_root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP) -> MemoryInfo:
    """Return free and total bytes, the least of the machine's and of each group's that this process is in.

    Caches of files that the kernel would give up count as free.
    """
    found = [_machine(), *_groups(cgroup_root, membership)]
    return MemoryInfo(min(info.free_bytes for info in found), min(info.total_bytes for info in found))


def _machine() -> MemoryInfo:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" not in fields:
        return MemoryInfo(total, total)  # not Linux: only the total is known
    return MemoryInfo(int(fields["MemAvailable"].split()[0]) * 1024, total)


def _groups(cgroup_root: Path, membership: Path) -> Iterator[MemoryInfo]:
    """Yield what each group with a limit leaves: the process's own and those above it."""
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = _V1 if controllers else _V2
        root = cgroup_root / version.folder
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            # In a container the path may be the host's and not exist here; the root then is the container's own group.
            if group.is_relative_to(root) and (info := _group(group, version)) is not None:
                yield info


def _group(folder: Path, version: _Version) -> MemoryInfo | None:
    limit, usage = _read(folder / version.limit), _read(folder / version.usage)
    if not limit.isdigit() or not usage.isdigit():  # no such folder, or "max"
        return None
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    used = int(usage) - int(stat.get(version.reclaimable, 0))
    return MemoryInfo(max(int(limit) - used, 0), int(limit))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
