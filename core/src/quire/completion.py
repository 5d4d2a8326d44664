"""One completion as it grows: its tokens, their text and logprobs, and what of it the caller has been given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from quire.outputs import CompletionOutput, FinishReason, Logprob, PositionLogprobs
from quire.plan import TokenLogprobs
from quire.sampling import OutputKind, SamplingParams
from quire.scheduling.commit import Progress
from quire.text.detokenize import open_text
from quire.text.tokenizer import Tokenizer


class Completion:
    """One of a request's completions while it grows. `finish_reason` is None as long as it does.

    It decides where its text ends: at a stop string, which the scheduler knows nothing of.
    """

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
        self._text = open_text(tokenizer, params, prompt_token_ids)
        self._logprobs: list[PositionLogprobs] = []
        self._cumulative_logprob = 0.0
        self._num_given = 0

    def extend(self, progress: Progress) -> None:
        """Add the tokens of a step. It finishes at a stop string, or with the last token for the scheduler's reason."""
        self.has_news = True
        token_ids, reason = progress.new_token_ids, progress.finish_reason
        # A token that stops the output has no text, unless that was asked for.
        is_last_silent = reason == "stop" and not self._params.include_stop_str_in_output
        num_taken = self._text.extend(token_ids, len(token_ids) - is_last_silent)
        self.token_ids += token_ids[:num_taken]
        if progress.logprobs:
            self._add_logprobs(progress.logprobs[:num_taken])
        if self._text.stop is not None:
            self.finish_reason, self.stop_reason = "stop", self._text.stop
        elif reason is not None:
            self._finish(progress)

    def output(self, kind: OutputKind) -> CompletionOutput:
        """Return what is new, or all, and count it as given."""
        self.has_news = False
        delta, is_delta = self._text.take_delta(), kind is OutputKind.DELTA
        start, self._num_given = self._num_given if is_delta else 0, len(self.token_ids)
        has_logprobs = self._params.logprobs is not None
        return CompletionOutput(
            index=self.index,
            text=delta if is_delta else self._text.given_text,
            token_ids=self.token_ids[start:],
            cumulative_logprob=self._cumulative_logprob if has_logprobs else None,
            logprobs=self._logprobs[start:] if has_logprobs else None,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _finish(self, progress: Progress) -> None:
        """End it for the scheduler's reason, unless the text that was held back completes a stop string."""
        self.finish_reason = cast(FinishReason, progress.finish_reason)
        self.stop_reason = progress.error or progress.stop_reason
        if self._text.finish():
            self.finish_reason, self.stop_reason = "stop", self._text.stop

    def _add_logprobs(self, found: Sequence[TokenLogprobs]) -> None:
        for item in found:
            self._logprobs.append(describe_logprobs(item, self._tokenizer))
            self._cumulative_logprob += float(item.logprobs[0])


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
