"""The answer to one request while it grows: its completions, its prompt's logprobs, and when all that came.

The engine owns a `Response` for each live request and feeds it what the scheduler committed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from quire.completion import Completion, describe_logprobs
from quire.intake import Admitted
from quire.outputs import PositionLogprobs, RequestMetrics, RequestOutput
from quire.plan import TokenLogprobs
from quire.sampling import OutputKind
from quire.scheduling.commit import Progress
from quire.text.tokenizer import Tokenizer


class Response:
    """The answer to one request. `num_unfinished` counts the completions that still grow."""

    def __init__(self, admitted: Admitted, tokenizer: Tokenizer | None) -> None:
        params, prompt = admitted.params, admitted.prompt
        self.request_id = admitted.request_id
        self.kind = params.output_kind
        self.completions = [Completion(index, params, tokenizer, prompt.token_ids) for index in range(params.n)]
        self.num_unfinished = params.n
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._metrics = RequestMetrics(arrival_time=admitted.arrival)
        self._num_cached_tokens = 0
        self._prompt_logprobs: list[PositionLogprobs | None] | None = None if params.prompt_logprobs is None else [None]
        self._embedding: list[float] | None = None
        self._is_telling = True  # of every step; an answer that is wanted whole is asked again when it is finished

    @property
    def finished(self) -> bool:
        return self.num_unfinished == 0

    def extend(self, completion: Completion, progress: Progress) -> bool:
        """Add what a step brought one of the completions; return whether that needs the engine's attention: it
        ended a completion, or `output` has something to tell or to note."""
        if completion.index == 0 and not completion.token_ids:
            self._num_cached_tokens = progress.request.num_cached_tokens
            self._add_prompt_logprobs(progress.prompt_logprobs or ())
        if progress.embedding is not None:
            self._embedding = progress.embedding.tolist()
        if not progress.new_token_ids and progress.finish_reason is None:
            return False
        completion.extend(progress)
        is_finished = completion.finish_reason is not None
        self.num_unfinished -= is_finished
        return self._is_telling or is_finished

    def note_scheduled(self, now: float) -> None:
        """Note when the request left the queue for the first time."""
        if self._metrics.scheduled_time is None:
            self._metrics = msgspec.structs.replace(self._metrics, scheduled_time=now)

    def output(self, now: float) -> RequestOutput | None:
        """Return what there is to tell at time `now`, if anything, and count it as given."""
        if self._metrics.first_token_time is None or self.finished:
            self._note_time(now)
        if self.kind is OutputKind.FINAL_ONLY and not self.finished:
            self._is_telling = self._metrics.first_token_time is None
            return None
        told = [item for item in self.completions if item.has_news or self.kind is not OutputKind.DELTA]
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt.text,
            prompt_token_ids=self._prompt.token_ids,
            outputs=[completion.output(self.kind) for completion in told],
            finished=self.finished,
            metrics=self._metrics,
            prompt_logprobs=self._take_prompt_logprobs(),
            num_cached_tokens=self._num_cached_tokens,
            embedding=self._embedding,
        )

    def _add_prompt_logprobs(self, found: Sequence[TokenLogprobs]) -> None:
        if self._prompt_logprobs is not None:
            self._prompt_logprobs += [describe_logprobs(item, self._tokenizer) for item in found]

    def _take_prompt_logprobs(self) -> list[PositionLogprobs | None] | None:
        """Return them once they are complete; in deltas only then."""
        found = self._prompt_logprobs
        if found is None or len(found) < len(self._prompt.token_ids):
            return None
        if self.kind is OutputKind.DELTA:
            self._prompt_logprobs = None
        return found

    def _note_time(self, now: float) -> None:
        first = self._metrics.first_token_time
        if first is None and any(completion.token_ids for completion in self.completions):
            first = now
        finished = now if self.finished else None
        self._metrics = msgspec.structs.replace(self._metrics, first_token_time=first, finished_time=finished)
