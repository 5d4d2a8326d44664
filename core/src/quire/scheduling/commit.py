"""What a committed step means for its requests: the tokens that are new, and why an output ended."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import NamedTuple, cast

import msgspec
from msgspec.structs import replace

from quire.errors import BackendError
from quire.plan import Float32s, StepResult, TokenLogprobs
from quire.scheduling.request import Request, RequestStatus
from quire.scheduling.roster import Order

Logprobs = tuple[TokenLogprobs, ...]


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What one step brought one request. `logprobs` are parallel to `new_token_ids`; `prompt_logprobs` continue those
    handed out before, from the prompt's second token on. `finish_reason` is "stop", "length", "error" or None;
    `stop_reason` the stop token that the caller had named; `error` the cause; `embedding` a pooled `[hidden_size]`.

    A Struct, not a NamedTuple, because hundreds are made in each step: it costs a third, and the garbage collector need
    not look at it.
    """

    request: Request
    new_token_ids: tuple[int, ...]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    embedding: Float32s | None = None


class Decodes(NamedTuple):
    """The decodes of a step and what each sampled, as parallel sequences."""

    requests: Sequence[Request]
    buffers: Sequence[array[int]]
    token_ids: Sequence[tuple[int, ...]]
    logprobs: Sequence[Logprobs | None] | None

    @classmethod
    def of(cls, order: Order, result: StepResult) -> Decodes:
        count = len(order.requests)
        logprobs = [result.logprobs.get(index) for index in range(count)] if result.logprobs else None
        return cls(order.requests, order.buffers, result.token_ids[:count], logprobs)

    def select(self, status: RequestStatus) -> Decodes:
        """Return those whose request has this status now."""
        mask = [request.status is status for request in self.requests]
        return Decodes(
            list(compress(self.requests, mask)),
            list(compress(self.buffers, mask)),
            list(compress(self.token_ids, mask)),
            None if self.logprobs is None else list(compress(self.logprobs, mask)),
        )

    def append(self, step: int) -> list[int]:
        """Append each request's token to what the host knows, in C; return the tokens. Raise BackendError."""
        try:
            tokens = [token for (token,) in self.token_ids]
        except ValueError:
            tokens = []
        if len(tokens) != len(self.requests):
            raise BackendError(f"step {step} decodes {len(self.requests)} rows; its result has not one token for each")
        deque(map(_append, self.buffers, tokens), maxlen=0)
        return tokens

    def progress(self) -> list[Progress]:
        """Return one Progress each."""
        if self.logprobs is None:
            return list(map(Progress, self.requests, self.token_ids))
        return list(map(Progress, self.requests, self.token_ids, self.logprobs))


_append = cast(Callable[["array[int]", int], None], array.append)


def stop_candidates(token_ids: Sequence[int], stop_ids: Mapping[int, int]) -> list[int]:
    """Return the indices of tokens that end some request, perhaps not the one that sampled them."""
    if stop_ids.keys().isdisjoint(token_ids):
        return []
    return [index for index, token in enumerate(token_ids) if token in stop_ids]


def stopped(item: Progress) -> Progress:
    """Say that the last token ended the output; it is the reason where the caller had named it."""
    token = item.new_token_ids[-1]
    named = token in item.request.params.stop_token_ids
    return replace(item, finish_reason="stop", stop_reason=token if named else None)


def accept(item: Progress) -> Progress:
    """Append a row's tokens until one ends the request; return what was taken."""
    request, taken = item.request, 0
    for token in item.new_token_ids:
        request.token_ids.append(token)
        taken += 1
        if request.stops_at(token) or request.num_tokens >= request.max_length:
            break
    logprobs = None if item.logprobs is None else item.logprobs[:taken]
    item = replace(item, new_token_ids=item.new_token_ids[:taken], logprobs=logprobs)
    if taken and request.stops_at(item.new_token_ids[-1]):
        return stopped(item)
    return replace(item, finish_reason="length") if request.num_tokens >= request.max_length else item


def unreported(request: Request, start: int, logprobs: Logprobs) -> Logprobs:
    """Return the prompt logprobs not handed out yet: after a preemption a prompt is computed again."""
    fresh = logprobs[max(request.num_reported_logprobs - start, 0) :]
    request.num_reported_logprobs = max(request.num_reported_logprobs, start + len(logprobs))
    return fresh
