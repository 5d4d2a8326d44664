"""What the engine hands back. Field names are vLLM's, so that a caller of it changes an import.

Everything is plain frozen data; what is made for each token is not tracked by the garbage collector, since it cannot be
part of a cycle. Times are seconds of the engine's clock: monotonic, unless it was given another.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from quire.errors import RequestError

FinishReason = Literal["stop", "length", "abort", "error"]


class Logprob(msgspec.Struct, frozen=True, gc=False):
    """One token at one position: natural logarithm of its probability and its rank, counted from 1."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PositionLogprobs = dict[int, Logprob]
"""Logprobs of one position by token id: the chosen token first, then the best ones."""


class CompletionOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One of a request's `n` completions.

    `finish_reason`: "stop" (an end-of-sequence token, a stop token, a stop string), "length", "abort", "error", or None
    while it runs. `stop_reason` is the stop string or stop token id that ended it, None for an end-of-sequence token;
    for "error", the cause in words.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


class RequestMetrics(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When a request arrived, was first scheduled, gave its first token, and finished."""

    arrival_time: float
    scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request's news, or the whole of it, as `SamplingParams.output_kind` says.

    `prompt_logprobs[i]` are those of prompt token i; the first has none. They come with the output that is first to
    have them all.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    num_cached_tokens: int = 0
    embedding: list[float] | None = None
    """The pooled hidden state, of a request that wanted that instead of tokens."""


class EmbeddingOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One text as a vector of the model's hidden size."""

    request_id: str
    prompt_token_ids: list[int]
    embedding: list[float]


class ScoreOutput(msgspec.Struct, frozen=True, kw_only=True):
    """How likely a continuation is after its prompt.

    `score` is the sum of `logprobs`, one for each of `token_ids`; `greedy` says whether each of them was the likeliest.
    """

    request_id: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    score: float
    greedy: bool


def as_embedding(output: RequestOutput) -> EmbeddingOutput:
    """Return a finished request's embedding. Raise RequestError where it failed, or the executor gave none."""
    if output.embedding is None:
        raise RequestError(f"request {output.request_id!r} failed: {output.outputs[0].stop_reason}")
    return EmbeddingOutput(
        request_id=output.request_id, prompt_token_ids=output.prompt_token_ids, embedding=output.embedding
    )


def merge_deltas(earlier: RequestOutput, later: RequestOutput) -> RequestOutput:
    """Join two outputs of kind "delta" of the same request into one."""
    completions = {output.index: output for output in earlier.outputs}
    for output in later.outputs:
        known = completions.get(output.index)
        completions[output.index] = output if known is None else _join(known, output)
    return msgspec.structs.replace(
        later,
        outputs=[completions[index] for index in sorted(completions)],
        prompt_logprobs=later.prompt_logprobs or earlier.prompt_logprobs,
    )


def _join(earlier: CompletionOutput, later: CompletionOutput) -> CompletionOutput:
    return msgspec.structs.replace(
        later,
        text=earlier.text + later.text,
        token_ids=earlier.token_ids + later.token_ids,
        logprobs=None if later.logprobs is None else (earlier.logprobs or []) + later.logprobs,
    )
