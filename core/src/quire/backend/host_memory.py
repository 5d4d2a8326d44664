"""How much memory this process may still take: the machine's, or less where its control group has a limit (Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from quire.backend.contract import MemoryInfo

CGROUP_ROOT = Path("/sys/fs/cgroup")


class _Names(NamedTuple):
    """What one version of control groups calls its files, and the field of `memory.stat` that can be reclaimed."""

    folder: str
    limit: str
    usage: str
    reclaimable: str


_VERSIONS = (
    _Names("", "memory.max", "memory.current", "inactive_file"),
    _Names("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def host_memory() -> MemoryInfo:
    """Return free and total bytes. Caches that the kernel would give up count as free."""
    machine = _machine()
    groups = [group for names in _VERSIONS if (group := _cgroup(names)) is not None]
    return MemoryInfo(
        min([machine.free_bytes, *(group.free_bytes for group in groups)]),
        min([machine.total_bytes, *(group.total_bytes for group in groups)]),
    )


def _machine() -> MemoryInfo:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page_bytes
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return MemoryInfo(int(fields["MemAvailable"].split()[0]) * 1024, total)
    return MemoryInfo(total, total)  # macOS says only the total


def _cgroup(names: _Names) -> MemoryInfo | None:
    """Return what this process's group leaves, or None where there is no such limit."""
    folder = CGROUP_ROOT / names.folder
    limit, usage = _read(folder / names.limit), _read(folder / names.usage)
    if not limit.isdigit() or not usage.isdigit():  # no such version, or "max"
        return None
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    used = int(usage) - int(stat.get(names.reclaimable, 0))
    return MemoryInfo(max(int(limit) - used, 0), int(limit))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
