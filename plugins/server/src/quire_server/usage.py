"""What a request cost, as OpenAI's `usage` says it."""

from __future__ import annotations

from typing import Any

from quire.outputs import RequestOutput


class Usage:
    """Counts the tokens of one HTTP request, which may hold several prompts and choices."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.num_output_tokens = 0
        self._cached: dict[int, int] = {}

    @property
    def num_cached_tokens(self) -> int:
        return sum(self._cached.values())

    def note(self, index: int, output: RequestOutput) -> None:
        """Count an output of the prompt `index`: a delta, or the only one."""
        self._cached[index] = output.num_cached_tokens
        self.num_output_tokens += sum(len(item.token_ids) for item in output.outputs)

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
