"""A server whose queue is full for about a second, and what a client's retries make of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .harness import Running, local_engine, serving, slow

RETRY_AFTER_S = 2  # longer than any client waits by itself before it tries for the first time again


@contextmanager
def small_queue() -> Iterator[Running]:
    """Run a server with one row and one place to wait in."""
    engine = local_engine(**slow(20), max_num_seqs=1, max_queued_requests=1)
    with serving(engine, retry_after_s=RETRY_AFTER_S) as running:
        yield running
        running.check_rest()


def seconds_when_busy(running: Running, ask: Callable[[], object]) -> float:
    """Fill the queue, call `ask`, and return how long it took: RETRY_AFTER_S or more where a client was patient."""
    body = {"prompt": "a", "max_tokens": 50, "ignore_eos": True}  # a second each, one after the other
    fillers = [threading.Thread(target=running.post, args=("/v1/completions", body)) for _ in range(2)]
    for filler in fillers:
        filler.start()
    running.wait_until(lambda stats: stats.num_waiting == 1)
    began = time.monotonic()
    try:
        ask()
        return time.monotonic() - began
    finally:
        for filler in fillers:
            filler.join()
