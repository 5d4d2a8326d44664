"""Logprobs in the two shapes that OpenAI has for them: of completions, and of chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.outputs import Logprob, PositionLogprobs
from quire.text.tokenizer import Tokenizer

LOWEST = -9999.0  # JSON has no -inf


class LogprobsFormat:
    """Writes logprobs; `num_top` is how many of the best are shown, `as_ids` names tokens by id instead of text."""

    def __init__(self, num_top: int, tokenizer: Tokenizer | None, as_ids: bool = False) -> None:
        self._num_top = num_top
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def completion(
        self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None], offset: int
    ) -> dict[str, Any]:
        """Return a completion's `logprobs`; `offset` is where in the text the first token begins, in characters."""
        tokens = [self._name(token_id) for token_id in token_ids]
        offsets = []
        for text in tokens:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": [
                None if position is None else _finite(position[token_id])
                for token_id, position in zip(token_ids, positions, strict=True)
            ],
            "top_logprobs": [self._top_by_text(position) for position in positions],
            "text_offset": offsets,
        }

    def chat(self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        """Return a chat choice's `logprobs`."""
        content = []
        for token_id, position in zip(token_ids, positions, strict=True):
            best = [self._entry(each, found) for each, found in self._top(position)]
            content.append({**self._entry(token_id, position[token_id]), "top_logprobs": best})
        return {"content": content, "refusal": None}

    def _top(self, position: PositionLogprobs) -> list[tuple[int, Logprob]]:
        ranked = sorted(position.items(), key=lambda item: item[1].rank or 0)
        return ranked[: self._num_top]

    def _top_by_text(self, position: PositionLogprobs | None) -> dict[str, float] | None:
        """Return the best by text, and the chosen token too, as OpenAI does; None where nothing was predicted."""
        if position is None:
            return None
        shown = dict(self._top(position))
        chosen = next(iter(position))
        shown.setdefault(chosen, position[chosen])
        return {self._name(token_id): _finite(found) for token_id, found in shown.items()}

    def _name(self, token_id: int) -> str:
        if self._as_ids or self._tokenizer is None:
            return f"token_id:{token_id}"
        return self._tokenizer.token_text(token_id)

    def _entry(self, token_id: int, found: Logprob) -> dict[str, Any]:
        text = self._name(token_id)
        return {"token": text, "logprob": _finite(found), "bytes": list(text.encode("utf-8", "replace"))}


def _finite(found: Logprob) -> float:
    return max(found.logprob, LOWEST)
