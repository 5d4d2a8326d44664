"""Many clients at once, in a process of their own: none is lost, none gets another's tokens, nothing is left behind.

Small here; `nox -s soak` runs the marked ones: 1,000 streams at once, and five minutes of 200 clients that come and go.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from quire.config import make_config
from quire_server.remote import RemoteEngine

from .harness import serving

CLIENT = Path(__file__).parent / "load_client.py"
SOAK_S = int(os.environ.get("SOAK_S", "300"))
SAMPLE_S = 5.0


@contextmanager
def served(**settings):
    """Serve with the engine in its own process, as `quire serve` does, and as many open files as are allowed."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def open_it():
        return await RemoteEngine.open(make_config({"model": "demo", **settings}))

    with serving(open_it, log_requests=False) as running:
        yield running


def run_clients(task, running, *numbers):
    """Run the clients to their end and return what they saw."""
    command = [sys.executable, str(CLIENT), task, running.url, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SOAK_S + 600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_storm(num_clients, num_tokens):
    """Let clients in all at once, and check each stream against what its seed says with few others."""
    with served(backend="null", max_num_seqs=256) as running:
        told = run_clients("storm", running, num_clients, num_tokens)
        assert (told["lost"], told["mixed"]) == ([], [])
        assert told["num_texts"] == num_clients  # so that a mix-up would show
        running.check_rest()
    return told


def check_soak(num_clients, seconds, **settings):
    """Let clients come and go, then look for what they left; return counts, and resident bytes every few seconds."""
    with served(num_blocks=4096, **settings) as running:
        run_clients("soak", running, num_clients, 2)  # what is made once is made
        with MemoryWatch(os.getpid(), running.frontend.client.pid) as memory:
            told = run_clients("soak", running, num_clients, seconds)
        assert set(told) == {"done", "left"} and told["left"] > 0, told
        running.check_rest()  # asks the engine to account for every block and row
        return told, memory.samples


class MemoryWatch:
    """Notes the resident MiB of processes while entered."""

    def __init__(self, *pids):
        self._pids = pids
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.samples = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._is_over.set()
        self._thread.join()

    def _watch(self):
        while not self._is_over.wait(SAMPLE_S):
            self.samples.append([round(resident_mib(pid), 1) for pid in self._pids])


def resident_mib(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_a_hundred_streams_at_once_are_all_their_own():
    assert check_storm(100, 24)["tokens_per_s"] > 0


def test_clients_that_come_and_go_leave_nothing_behind():
    told, _ = check_soak(24, 4, backend="null", backend_options={"row_us": "50"})
    assert told["done"] > told["left"]


@pytest.mark.slow
def test_a_thousand_streams_at_once_are_all_their_own(capsys):
    told = check_storm(1000, 128)
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 600)
def test_minutes_of_clients_that_come_and_go_leave_no_block_and_no_memory_behind(capsys):
    began = time.monotonic()
    told, samples = check_soak(200, SOAK_S)
    with capsys.disabled():
        print(
            f"\n{told} in {time.monotonic() - began:.0f} s; MiB of server and engine: {samples[:: len(samples) // 12]}"
        )
    thirds = len(samples) // 3
    for early, late in zip(
        zip(*samples[thirds : 2 * thirds], strict=True), zip(*samples[2 * thirds :], strict=True), strict=True
    ):
        assert max(late) < max(early) + 16, "memory grows"
