"""What a committed step means for its requests: the tokens that are new, and why an output ended."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from itertools import chain, compress, repeat
from typing import Any, NamedTuple, cast

from quire.errors import BackendError
from quire.plan import Float32s, StepResult, TokenLogprobs
from quire.request import Request, RequestStatus
from quire.roster import Order

Logprobs = tuple[TokenLogprobs, ...]


class Progress(NamedTuple):
    """What one step brought one request. `logprobs` are parallel to `new_token_ids`; `prompt_logprobs` continue those
    handed out before, from the prompt's second token on. `finish_reason` is "stop", "length", "error" or None;
    `stop_reason` the stop token that the caller had named; `error` the cause; `embedding` a pooled `[hidden_size]`."""

    request: Request
    new_token_ids: tuple[int, ...]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    embedding: Float32s | None = None


NUM_FIELDS = len(Progress._fields)


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
        logprobs = None if self.logprobs is None else list(compress(self.logprobs, mask))
        columns = (list(compress(column, mask)) for column in (self.requests, self.buffers, self.token_ids))
        return Decodes(*columns, logprobs)  # type: ignore[arg-type]

    def append(self, step: int) -> list[int]:
        """Append each request's token to what the host knows, in C; return the tokens. Raise BackendError."""
        tokens = list(chain.from_iterable(self.token_ids))
        if not len(tokens) == len(self.token_ids) == len(self.requests):
            raise BackendError(f"step {step} decodes {len(self.requests)} rows; its result has {len(tokens)} tokens")
        deque(map(_append, self.buffers, tokens), maxlen=0)
        return tokens

    def progress(self) -> list[Progress]:
        """Return one Progress each, made in C: the class's own constructor would cost half of the commit."""
        nothing: repeat[None] = repeat(None)
        rest = [nothing] * (NUM_FIELDS - 3)
        return list(map(_make, zip(self.requests, self.token_ids, self.logprobs or nothing, *rest, strict=False)))


_append = cast(Callable[["array[int]", int], None], array.append)
_make = cast(Callable[[Iterable[Any]], Progress], partial(tuple.__new__, Progress))


def stop_candidates(token_ids: Sequence[int], stop_ids: Container[int]) -> list[int]:
    """Return the indices of tokens that end some request, perhaps not the one that sampled them."""
    return [index for index, token in enumerate(token_ids) if token in stop_ids]


def stopped(item: Progress) -> Progress:
    """Say that the last token ended the output; it is the reason where the caller had named it."""
    token = item.new_token_ids[-1]
    named = token in item.request.params.stop_token_ids
    return item._replace(finish_reason="stop", stop_reason=token if named else None)


def accept(item: Progress) -> Progress:
    """Append a row's tokens until one ends the request; return what was taken."""
    request, taken = item.request, 0
    for token in item.new_token_ids:
        request.token_ids.append(token)
        taken += 1
        if request.stops_at(token) or request.num_tokens >= request.max_length:
            break
    logprobs = None if item.logprobs is None else item.logprobs[:taken]
    item = item._replace(new_token_ids=item.new_token_ids[:taken], logprobs=logprobs)
    if taken and request.stops_at(item.new_token_ids[-1]):
        return stopped(item)
    return item._replace(finish_reason="length") if request.num_tokens >= request.max_length else item


def unreported(request: Request, start: int, logprobs: Logprobs) -> Logprobs:
    """Return the prompt logprobs not handed out yet: after a preemption a prompt is computed again."""
    fresh = logprobs[max(request.num_reported_logprobs - start, 0) :]
    request.num_reported_logprobs = max(request.num_reported_logprobs, start + len(logprobs))
    return fresh
