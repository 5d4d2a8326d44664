"""Run a peer in a process of its own, on the workload that Quire was just measured on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.errors import QuireError

if TYPE_CHECKING:
    from quire.bench.throughput import Throughput

START_AND_STOP_S = 300.0


def run_transformers(folder: Path, seen: Throughput, limit_s: float) -> dict[str, Any]:
    """Return what `quire.bench.peer_transformers` saw, with the same requests, threads and dtype. Raise QuireError."""
    options = {
        "--dtype": seen.dtype,
        "--threads": str(seen.threads),
        "--requests": str(seen.num_requests),
        "--limit-s": str(limit_s),
    }
    command = [sys.executable, "-m", "quire.bench.peer_transformers", str(folder)]
    command += [text for pair in options.items() for text in pair]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s + START_AND_STOP_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise QuireError(f"transformers did not end within {limit_s + START_AND_STOP_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise QuireError(f"transformers failed with exit code {error.returncode}: {' '.join(last)}") from error
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
