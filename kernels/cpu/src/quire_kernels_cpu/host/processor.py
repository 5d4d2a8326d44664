"""The processor as this process may use it: model, flags, physical cores, CPU quota. Standard library only (Linux)."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

from quire_kernels_cpu.isa import cpu_flags, usable_variants

CPUINFO = Path("/proc/cpuinfo")
TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Processor(NamedTuple):
    """`cores` holds one logical CPU of each physical core that the affinity mask allows; `quota` is the control
    group's limit in CPUs, None where it has none."""

    model: str
    flags: frozenset[str]
    cores: tuple[int, ...]
    quota: float | None

    @property
    def num_threads(self) -> int:
        """Threads that can compute at once: a second one on a core, or one over the quota, would only wait."""
        return len(self.cores) if self.quota is None else max(1, min(len(self.cores), math.floor(self.quota)))

    @property
    def facts(self) -> dict[str, str]:
        """Return what a manifest tells of the processor."""
        best = usable_variants(self.flags)[0]
        return {"processor": self.model, "instruction set": best, "cores": str(len(self.cores))}


def read_processor(cpuinfo: Path = CPUINFO, topology: Path = TOPOLOGY, quota: Path = CGROUP_QUOTA) -> Processor:
    """Read what the kernel says of the first processor, and of those that this process may use."""
    cores = physical_cores(sorted(os.sched_getaffinity(0)), topology)
    return Processor(read_model(cpuinfo), cpu_flags(cpuinfo), cores, read_quota(quota))


def read_model(cpuinfo: Path) -> str:
    """Return the name of the first processor: x86 kernels call it "model name", POWER's "cpu"."""
    fields = _fields(cpuinfo)
    return fields.get("model name") or fields.get("cpu") or "unknown"


def physical_cores(cpus: list[int], topology: Path) -> tuple[int, ...]:
    """Return the first of `cpus` on each physical core; all of them where the topology is not shown."""
    firsts: dict[str, int] = {}
    for cpu in cpus:
        siblings = _read(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list")
        firsts.setdefault(siblings or f"cpu{cpu}", cpu)
    return tuple(firsts.values())


def read_quota(path: Path) -> float | None:
    """Return the CPUs that cgroup v2 grants, None if it sets no limit."""
    quota, _, period = _read(path).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _fields(path: Path) -> dict[str, str]:
    """Return the fields of the first processor."""
    lines = _read(path).split("\n\n", 1)[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
