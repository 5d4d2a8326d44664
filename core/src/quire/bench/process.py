"""Facts about this process that a benchmark reports: when it was started, the most memory it has held."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

_LOADED_AT = time.time()


def since_start() -> float:
    """Return seconds since this process was started (where the system does not tell: since this module was loaded)."""
    return time.time() - _started_at()


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held (resident)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _started_at() -> float:
    stat, uptime = Path("/proc/self/stat"), Path("/proc/uptime")
    if not (stat.exists() and uptime.exists()):
        return _LOADED_AT
    start_ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # field 22 of proc(5), counted after the name
    booted_at = time.time() - float(uptime.read_text().split()[0])
    return booted_at + start_ticks / os.sysconf("SC_CLK_TCK")
