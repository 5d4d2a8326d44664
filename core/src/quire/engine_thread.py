"""The engine on a thread of its own, and the streams that carry its outputs to coroutines.

One side: any thread puts commands into an inbox, which the engine thread takes between steps; while there is no work
it sleeps on the inbox, so an idle engine costs nothing. Other side: after each step all news goes to each event loop in
one call. A stream holds at most one output, new ones being joined to it, so a slow reader costs no memory.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from quire.engine import Engine
from quire.errors import EngineDeadError, QuireError, RequestAborted
from quire.intake import Admitted
from quire.outputs import RequestOutput, merge_deltas
from quire.sampling import OutputKind


class Calling(Protocol):
    """What calls functions where readers live: an event loop, or something that needs none and calls at once."""

    def call_soon_threadsafe(self, callback: Callable[[list[News]], None], batch: list[News], /) -> object: ...


class Reader(Protocol):
    """Where the news of one request goes. `put` is called by `loop`, with all news of a step one after the other."""

    admitted: Admitted

    @property
    def loop(self) -> Calling: ...

    @property
    def request_id(self) -> str: ...

    def put(self, news: RequestOutput | QuireError) -> None:
        """Take an output or what ended the request. Must not raise."""
        ...


class OutputStream:
    """The outputs of one request on their way to one coroutine of one event loop."""

    def __init__(self, admitted: Admitted) -> None:
        """Thread: that of the running event loop."""
        self.admitted = admitted
        self.loop = asyncio.get_running_loop()
        self._is_delta = admitted.params.output_kind is OutputKind.DELTA
        self._output: RequestOutput | None = None
        self._error: QuireError | None = None
        self._is_ready = asyncio.Event()

    @property
    def request_id(self) -> str:
        return self.admitted.request_id

    def put(self, news: RequestOutput | QuireError) -> None:
        """Take an output or what ended the request. Thread: the event loop's."""
        if isinstance(news, QuireError):
            self._error = news
        elif self._output is not None and self._is_delta:
            self._output = merge_deltas(self._output, news)
        else:
            self._output = news
        self._is_ready.set()

    async def take(self) -> RequestOutput:
        """Wait for the next output. Raise what ended the request, once its outputs have been taken."""
        await self._is_ready.wait()
        output, self._output = self._output, None
        if self._error is None:
            self._is_ready.clear()
        if output is None:
            assert self._error is not None, "a stream was ready without an output or an error"
            raise self._error
        return output


class News(NamedTuple):
    """What a stream gets."""

    stream: Reader
    item: RequestOutput | QuireError


Command = Callable[[], None]


class EngineThread:
    """Runs an engine's loop. All methods but the private ones may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.death: EngineDeadError | None = None
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards `death` and the two counts
        self._num_coming = 0  # requests in the inbox
        self._num_coming_tokens = 0
        self._is_stopping = False
        self._streams: dict[str, Reader] = {}
        self._news: list[News] = []
        self._thread = threading.Thread(target=self._run, name="quire-engine", daemon=True)
        self._thread.start()

    def submit(self, stream: Reader) -> None:
        """Send a request to the engine. Raise QueueFullError or EngineDeadError at once."""
        num_tokens = len(stream.admitted.prompt.token_ids) * stream.admitted.params.n
        with self._lock:
            if self.death is not None:
                raise _copy(self.death)
            # The scheduler checks again when the request gets there; this refuses without waiting for a step.
            queue = self.engine.scheduler.queue
            queue.check_room(len(stream.admitted.prompt.token_ids), self._num_coming, self._num_coming_tokens)
            self._num_coming += stream.admitted.params.n
            self._num_coming_tokens += num_tokens
            self._inbox.put(lambda: self._add(stream, num_tokens))

    def abort(self, request_id: str) -> None:
        """End a request, if it is there; its stream raises RequestAborted."""
        self._inbox.put(lambda: self._abort(request_id))

    def abandon(self, stream: Reader) -> None:
        """End the request of a stream that nobody reads any more, if it is there."""
        self._inbox.put(lambda: self._abandon(stream))

    def call(self, function: Command) -> None:
        """Run a function, which must not raise, between two steps. Raise EngineDeadError."""
        with self._lock:
            if self.death is not None:
                raise _copy(self.death)
            self._inbox.put(function)

    def stop(self) -> None:
        """Abort everything, stop the executor, and wait for the thread. May be called twice."""
        self._inbox.put(self._stop)
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- on the engine's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._serve_inbox()
                if self.engine.has_work and not self._is_stopping:
                    self._tell_outputs(self.engine.step())
                self._deliver()
            self._end(RequestAborted("the engine was shut down"), EngineDeadError("the engine was shut down"))
        except EngineDeadError as error:
            self._end(error, error)
        except BaseException as error:
            death = EngineDeadError(f"the engine's thread stopped: {type(error).__name__}: {error}")
            death.__cause__ = error
            self._end(death, death)

    def _serve_inbox(self) -> None:
        if not self.engine.has_work:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _add(self, stream: Reader, num_tokens: int) -> None:
        try:
            self.engine.enqueue(stream.admitted)
            self._streams[stream.request_id] = stream
        except QuireError as error:
            self._news.append(News(stream, error))
        with self._lock:
            self._num_coming -= stream.admitted.params.n
            self._num_coming_tokens -= num_tokens

    def _abort(self, request_id: str) -> None:
        stream = self._streams.get(request_id)
        if stream is not None:
            self._abandon(stream)
            self._news.append(News(stream, RequestAborted(f"request {request_id!r} was aborted")))

    def _abandon(self, stream: Reader) -> None:
        if self._streams.get(stream.request_id) is stream:  # the id may have been given to another since
            del self._streams[stream.request_id]
            self.engine.abort(stream.request_id)

    def _stop(self) -> None:
        self._is_stopping = True

    def _tell_outputs(self, outputs: list[RequestOutput]) -> None:
        for output in outputs:
            streams = self._streams
            stream = streams.pop(output.request_id) if output.finished else streams[output.request_id]
            self._news.append(News(stream, output))

    def _deliver(self) -> None:
        """Hand the news to the event loops, one call for each loop."""
        by_loop: dict[Calling, list[News]] = {}
        for news in self._news:
            by_loop.setdefault(news.stream.loop, []).append(news)
        self._news = []
        for loop, batch in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, batch)
            except RuntimeError:  # that loop is closed: nobody reads any more
                for news in batch:
                    self._abandon(news.stream)

    def _end(self, reason: QuireError, death: EngineDeadError) -> None:
        with self._lock:
            self.death = death
        while not self._inbox.empty():  # their streams are told like all others
            self._inbox.get()()
        self._news += [News(stream, _copy(reason)) for stream in self._streams.values()]
        self._streams.clear()
        self._deliver()
        self.engine.shutdown()


def _put_all(batch: list[News]) -> None:
    for news in batch:
        news.stream.put(news.item)


def _copy(error: QuireError) -> QuireError:
    """Return the same error for another waiter, so that each has a traceback of its own."""
    copied = type(error)(str(error))
    copied.__cause__ = error.__cause__
    return copied
