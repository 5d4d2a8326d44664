"""Put a load on something that answers, and note when each token came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from quire.errors import QuireError
from quire_server.bench.workload import Item


class Reply(NamedTuple):
    """When each part of an answer came (seconds of `time.perf_counter`), and how many tokens they hold together."""

    times: list[float]
    num_tokens: int
    num_prompt_tokens: int


Answer = Callable[[], Reply]
"""Read an answer that has come to its end. Called when the clock has stopped, since reading takes time that the server
may want. Raise QuireError where the answer tells of a failure."""


class Target(Protocol):
    """Whatever answers requests."""

    async def send(self, item: Item) -> Answer:
        """Send a request and wait for the end of its answer. Raise QuireError where it fails."""


class Sent(NamedTuple):
    """One request that is over, but not read yet."""

    began: float
    answer: Answer | QuireError


class Record(NamedTuple):
    """One request that is over; all times in seconds. With an `error` there is no reply."""

    began: float
    reply: Reply
    error: str | None = None

    @property
    def first_token_s(self) -> float:
        return self.reply.times[0] - self.began

    @property
    def end_to_end_s(self) -> float:
        return self.reply.times[-1] - self.began

    @property
    def gaps_s(self) -> list[float]:
        """Between parts: what a reader of the stream waits for the next."""
        times = self.reply.times
        return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]

    @property
    def per_token_s(self) -> float:
        """The mean time of a token after the first."""
        return (self.reply.times[-1] - self.reply.times[0]) / max(self.reply.num_tokens - 1, 1)


class Run(NamedTuple):
    """All requests of a load, and the seconds from the first one's start to the last one's end."""

    records: list[Record]
    seconds: float

    @property
    def done(self) -> list[Record]:
        return [record for record in self.records if record.error is None]

    @property
    def output_tokens_per_s(self) -> float:
        return sum(record.reply.num_tokens for record in self.done) / self.seconds


async def run_load(target: Target, items: Sequence[Item], concurrency: int | None) -> Run:
    """Send all requests: so many at a time, or, without a `concurrency`, each when it arrives, whatever still runs."""
    began = time.perf_counter()
    sent: list[Sent] = []
    source = iter(items)

    async def arrive(item: Item) -> None:
        due = began + item.arrival_s
        await asyncio.sleep(due - time.perf_counter())
        sent.append(await _send(target, item, due))

    async def keep_busy() -> None:
        for item in source:  # shared by all workers: each takes the next
            sent.append(await _send(target, item, time.perf_counter()))

    work: list[Coroutine[Any, Any, None]]
    work = [arrive(item) for item in items] if concurrency is None else [keep_busy() for _ in range(concurrency)]
    await asyncio.gather(*work)
    seconds = time.perf_counter() - began
    return Run([_read(each) for each in sent], seconds)


async def _send(target: Target, item: Item, began: float) -> Sent:
    try:
        return Sent(began, await target.send(item))
    except QuireError as error:
        return Sent(began, error)


def _read(sent: Sent) -> Record:
    try:
        if isinstance(sent.answer, QuireError):
            raise sent.answer
        return Record(sent.began, sent.answer())
    except QuireError as error:
        return Record(sent.began, Reply([], 0, 0), str(error))
