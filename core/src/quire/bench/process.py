"""Facts about this process that a benchmark reports: when it was started, the most memory it has held."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Self

_LOADED_AT = time.time()


def since_start() -> float:
    """Return seconds since this process was started (where the system does not tell: since this module was loaded)."""
    return time.time() - _started_at()


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held (resident)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with what the process held that started this one
        return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class OthersMeter:
    """While entered, watches how many cores other processes keep busy: figures taken beside them are too low.

    `cores` is their mean afterwards; None where the system does not tell.
    """

    cores: float | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._busy, self._own = _busy_s(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        seconds, busy = time.perf_counter() - self._began, _busy_s()
        if busy is not None and self._busy is not None and seconds > 0:
            own = time.process_time() - self._own
            self.cores = max(0.0, (busy - self._busy - own) / seconds)


def _busy_s() -> float | None:
    """Return the seconds that all cores together have worked (proc(5): the first line without idle and iowait)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _started_at() -> float:
    stat, uptime = Path("/proc/self/stat"), Path("/proc/uptime")
    if not (stat.exists() and uptime.exists()):
        return _LOADED_AT
    start_ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # field 22 of proc(5), counted after the name
    booted_at = time.time() - float(uptime.read_text().split()[0])
    return booted_at + start_ticks / os.sysconf("SC_CLK_TCK")
