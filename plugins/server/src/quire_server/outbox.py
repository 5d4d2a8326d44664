"""What the engine's thread says to the server: each request's news, and all of a step as one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from quire.engine_thread import News
from quire.errors import EngineDeadError, QuireError
from quire.intake import Admitted
from quire.outputs import RequestOutput, as_embedding
from quire_server.pacing import Pace
from quire_server.wire import Delta, Embedded, Outputs, SharedChannel, describe_failure


class Outbox:
    """Gathers news and sends it; stands where readers have their event loop, and needs none. Thread: the engine's."""

    def __init__(self, channel: SharedChannel[Any]) -> None:
        self._channel = channel
        self._deltas: list[Delta] = []
        self._outputs: dict[str, RequestOutput] = {}  # by request

    def call_soon_threadsafe(self, put_all: Callable[[list[News]], None], news: list[News]) -> None:
        """Take all news of a step, and send it."""
        put_all(news)
        self.flush()

    def tell_delta(self, delta: Delta) -> None:
        """Send a delta with all else that the same step brought; outputs come behind deltas in a message."""
        if delta.request_id in self._outputs:
            self.flush()
        self._deltas.append(delta)

    def tell(self, output: RequestOutput) -> None:
        """Send an output with all else that the same step brought; the server knows the prompt."""
        if output.request_id in self._outputs:
            self.flush()
        self._outputs[output.request_id] = msgspec.structs.replace(output, prompt_token_ids=[])

    def tell_embedding(self, output: RequestOutput) -> None:
        """Send an embedding. Raise RequestError where there is none."""
        self._channel.send(Embedded(msgspec.structs.replace(as_embedding(output), prompt_token_ids=[])))

    def fail(self, request_id: str, error: QuireError) -> None:
        """Tell what ended a request, or the engine, behind all that it has said."""
        self.flush()
        self._channel.send(describe_failure("" if isinstance(error, EngineDeadError) else request_id, error))

    def flush(self) -> None:
        """Send what there is."""
        deltas, self._deltas = self._deltas, []
        outputs, self._outputs = self._outputs, {}
        if deltas or outputs:
            self._channel.send(Outputs(deltas, list(outputs.values())))


class Reader:
    """Where one request's news goes: into the outbox, in few words. Thread: the engine's."""

    def __init__(
        self, admitted: Admitted, outbox: Outbox, stream_interval: int, forget: Callable[[Reader], None]
    ) -> None:
        """`forget` is called when there will be no more news."""
        self.admitted = admitted
        self.loop = outbox
        self._outbox = outbox
        self._pace = Pace(stream_interval)
        self._forget = forget
        self._has_begun = False

    @property
    def request_id(self) -> str:
        return self.admitted.request_id

    def put(self, news: RequestOutput | QuireError) -> None:
        if isinstance(news, QuireError):
            self._fail(news)
        elif self.admitted.pooling:
            self._put_embedding(news)
        elif (told := self._pace.add(news)) is not None:
            self._tell(told)

    def _tell(self, news: RequestOutput) -> None:
        if self._has_begun and is_plain(news):
            item = news.outputs[0]
            self._outbox.tell_delta(Delta(news.request_id, item.index, item.text, item.token_ids))
            return
        self._has_begun = True
        self._outbox.tell(news)
        if news.finished:
            self._forget(self)

    def _put_embedding(self, news: RequestOutput) -> None:
        try:
            self._outbox.tell_embedding(news)
            self._forget(self)
        except QuireError as error:
            self._fail(error)

    def _fail(self, error: QuireError) -> None:
        self._outbox.fail(self.request_id, error)
        self._forget(self)


def is_plain(output: RequestOutput) -> bool:
    """Whether text and tokens of one completion are all that an output has to say, after the first."""
    if output.finished or len(output.outputs) != 1 or output.prompt_logprobs is not None:
        return False
    item = output.outputs[0]
    return item.finish_reason is None and item.logprobs is None
