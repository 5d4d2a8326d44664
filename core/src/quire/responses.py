"""Answers as they grow: the tokens of each completion, their text, and what of it the caller has been given.

The engine owns a `Response` for each live request and feeds its completions what the scheduler committed. Only here is
it decided where a completion's text ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from quire.commit import Progress
from quire.detokenize import Detokenizer
from quire.intake import Admitted
from quire.outputs import (
    CompletionOutput,
    FinishReason,
    Logprob,
    PositionLogprobs,
    RequestMetrics,
    RequestOutput,
)
from quire.plan import Float32s, TokenLogprobs
from quire.sampling import OutputKind, SamplingParams
from quire.tokenizer import Tokenizer


class Completion:
    """One of a request's completions while it grows. `finish_reason` is None as long as it does."""

    def __init__(
        self, index: int, params: SamplingParams, tokenizer: Tokenizer | None, prompt_token_ids: Sequence[int]
    ) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.has_news = False
        self._params = params
        self._tokenizer = tokenizer
        self._detokenizer = (
            Detokenizer(tokenizer, params, prompt_token_ids) if tokenizer and params.detokenize else None
        )
        self._logprobs: list[PositionLogprobs] = []
        self._cumulative_logprob = 0.0
        self._num_given = 0

    def extend(self, progress: Progress) -> None:
        """Add the tokens of a step. It finishes at a stop string, or with the last token for the scheduler's reason."""
        self.has_news = True
        num_spoken = len(progress.new_token_ids) - self._count_silent(progress.finish_reason)
        for index, token_id in enumerate(progress.new_token_ids):
            self.token_ids.append(token_id)
            if progress.logprobs:
                self._add_logprobs(progress.logprobs[index])
            self._add_text(token_id, silent=index >= num_spoken)
            if self.finish_reason is not None:
                return
        if progress.finish_reason is not None:
            self._finish(progress)

    def _finish(self, progress: Progress) -> None:
        """End it for the scheduler's reason, unless the text that was held back completes a stop string."""
        self.finish_reason = cast(FinishReason, progress.finish_reason)
        self.stop_reason = progress.error or progress.stop_reason
        if self._detokenizer is not None and self._detokenizer.finish():
            self.finish_reason, self.stop_reason = "stop", self._detokenizer.stop

    def output(self, kind: OutputKind) -> CompletionOutput:
        """Return what is new, or all, and count it as given."""
        self.has_news = False
        text, start = self._take_text(kind), self._num_given if kind is OutputKind.DELTA else 0
        self._num_given = len(self.token_ids)
        wanted = self._params.logprobs is not None
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=self.token_ids[start:],
            cumulative_logprob=self._cumulative_logprob if wanted else None,
            logprobs=self._logprobs[start:] if wanted else None,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _count_silent(self, finish_reason: str | None) -> int:
        """A token that stops the output has no text, unless it was asked for."""
        return int(finish_reason == "stop" and not self._params.include_stop_str_in_output)

    def _add_text(self, token_id: int, *, silent: bool) -> None:
        if self._detokenizer is None:
            return
        if silent:
            self._detokenizer.skip()
        elif self._detokenizer.append(token_id):
            self.finish_reason, self.stop_reason = "stop", self._detokenizer.stop

    def _add_logprobs(self, found: TokenLogprobs) -> None:
        position = describe_logprobs(found, self._tokenizer)
        self._logprobs.append(position)
        self._cumulative_logprob += float(found.logprobs[0])

    def _take_text(self, kind: OutputKind) -> str:
        if self._detokenizer is None:
            return ""
        delta = self._detokenizer.take_delta()
        return delta if kind is OutputKind.DELTA else self._detokenizer.given_text


class Response:
    """The answer to one request: its completions, and when they came."""

    def __init__(self, admitted: Admitted, tokenizer: Tokenizer | None) -> None:
        params, prompt = admitted.params, admitted.prompt
        self.request_id = admitted.request_id
        self.kind = params.output_kind
        self.completions = [Completion(index, params, tokenizer, prompt.token_ids) for index in range(params.n)]
        self.num_cached_tokens = 0
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._arrival = admitted.arrival
        self._first_token: float | None = None
        self._prompt_logprobs: list[PositionLogprobs | None] | None = None if params.prompt_logprobs is None else [None]
        self._prompt_logprobs_given = False
        self._embedding: list[float] | None = None

    @property
    def finished(self) -> bool:
        return all(completion.finish_reason is not None for completion in self.completions)

    def add_prompt(self, found: Sequence[TokenLogprobs], num_cached_tokens: int) -> None:
        """Add the logprobs of the prompt's next positions, and how many of its tokens the prefix cache saved."""
        self.num_cached_tokens = num_cached_tokens
        if self._prompt_logprobs is not None:
            self._prompt_logprobs += [describe_logprobs(item, self._tokenizer) for item in found]

    def set_embedding(self, pooled: Float32s) -> None:
        """Take the pooled hidden state `[hidden_size]`."""
        self._embedding = pooled.tolist()

    def output(self, now: float) -> RequestOutput | None:
        """Return what there is to tell at time `now`, if anything, and count it as given."""
        if self._first_token is None and any(completion.token_ids for completion in self.completions):
            self._first_token = now
        finished = self.finished
        if self.kind is OutputKind.FINAL_ONLY and not finished:
            return None
        told = [item for item in self.completions if item.has_news or self.kind is not OutputKind.DELTA]
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt.text,
            prompt_token_ids=self._prompt.token_ids,
            outputs=[completion.output(self.kind) for completion in told],
            finished=finished,
            metrics=RequestMetrics(
                arrival_time=self._arrival,
                first_token_time=self._first_token,
                finished_time=now if finished else None,
            ),
            prompt_logprobs=self._take_prompt_logprobs(),
            num_cached_tokens=self.num_cached_tokens,
            embedding=self._embedding,
        )

    def _take_prompt_logprobs(self) -> list[PositionLogprobs | None] | None:
        found = self._prompt_logprobs
        if found is None or len(found) < len(self._prompt.token_ids) or self._prompt_logprobs_given:
            return None
        self._prompt_logprobs_given = self.kind is OutputKind.DELTA
        return list(found)


def describe_logprobs(found: TokenLogprobs, tokenizer: Tokenizer | None) -> PositionLogprobs:
    """Return one position's logprobs by token id: the chosen token first, then the best ones."""
    chosen, *best = found.token_ids.tolist()
    logprobs = found.logprobs.tolist()
    ranked = [(chosen, found.rank, logprobs[0])]
    ranked += [(token_id, rank, logprobs[rank]) for rank, token_id in enumerate(best, 1) if token_id != chosen]
    return {
        token_id: Logprob(logprob, rank, tokenizer.token_text(token_id) if tokenizer else None)
        for token_id, rank, logprob in ranked
    }
