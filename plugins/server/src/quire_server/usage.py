"""What a request cost, as OpenAI's `usage` says it, and what else is told of it afterwards."""

from __future__ import annotations

from typing import Any

from quire.outputs import RequestMetrics, RequestOutput
from quire.sampling import SamplingParams


class Usage:
    """Counts the tokens of one HTTP request, which may hold several prompts and choices.

    `params` are the first prompt's; None for embeddings. `times` are the first prompt's too, once there is an output.
    """

    def __init__(self, num_prompt_tokens: int, params: SamplingParams | None = None) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.params = params
        self.num_output_tokens = 0
        self.finish_reasons: list[str] = []
        self.times: RequestMetrics | None = None
        self._cached: dict[int, int] = {}

    @property
    def num_cached_tokens(self) -> int:
        return sum(self._cached.values())

    def note(self, index: int, output: RequestOutput) -> None:
        """Count an output of the prompt `index`: a delta, or the only one."""
        self._cached[index] = output.num_cached_tokens
        for item in output.outputs:
            self.num_output_tokens += len(item.token_ids)
            if item.finish_reason is not None:
                self.finish_reasons.append(item.finish_reason)
        if index == 0:
            self.times = output.metrics

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }

    def log_fields(self) -> dict[str, int]:
        """Return what the log line of the request says about it."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "output_tokens": self.num_output_tokens,
            "cached_tokens": self.num_cached_tokens,
        }
