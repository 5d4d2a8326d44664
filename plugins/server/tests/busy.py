"""A server whose queue is full until it has refused a request, and what the client's retries make of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .harness import Running, local_engine, serving, slow

RETRY_AFTER_S = 2
PATIENT_S = 1.5  # whoever waits so long has read Retry-After: by themselves clients try again after half a second
FILLING = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True}
access_log = logging.getLogger("quire_server.access")


@contextmanager
def small_queue() -> Iterator[Running]:
    """Run a server with one row and one place to wait in."""
    engine = local_engine(**slow(20), max_num_seqs=1, max_queued_requests=1)
    with serving(engine, retry_after_s=RETRY_AFTER_S) as running:
        yield running
        running.check_rest()


def seconds_when_busy(running: Running, ask: Callable[[], object]) -> float:
    """Call `ask` with the queue full, make room once it has been refused, and return the seconds from then to its end:
    PATIENT_S or more where a client waited as it was told."""
    refusal = Refusal()
    fillers = [threading.Thread(target=_fill, args=(running, refusal.has_come)) for _ in range(2)]
    access_log.addHandler(refusal)
    level = access_log.level
    access_log.setLevel(logging.INFO)
    try:
        fillers[0].start()
        running.wait_until(lambda stats: stats.num_running == 1)  # else the second may find the one place taken
        fillers[1].start()
        running.wait_until(lambda stats: stats.num_waiting == 1)
        ask()
        assert refusal.has_come.wait(10), "the request was never refused"  # its line is logged behind the answer
        return time.monotonic() - refusal.came_at
    finally:
        refusal.has_come.set()
        for filler in fillers:
            if filler.is_alive():
                filler.join()
        access_log.removeHandler(refusal)
        access_log.setLevel(level)


class Refusal(logging.Handler):
    """Notes when the server's log first tells of a 429."""

    def __init__(self) -> None:
        super().__init__()
        self.has_come = threading.Event()
        self.came_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if '"status":429' in record.getMessage() and not self.has_come.is_set():
            self.came_at = time.monotonic()
            self.has_come.set()


def _fill(running: Running, is_over: threading.Event) -> None:
    """Stream until it is over, then leave."""
    with running.http as http, http.stream("POST", "/v1/completions", json=FILLING) as response:
        for _ in response.iter_lines():
            if is_over.is_set():
                return
