"""How often a stream has news: with every token, or with every few, which costs less."""

from __future__ import annotations

from quire.outputs import RequestOutput, merge_deltas


class Pace:
    """Joins one request's outputs of kind "delta" until one of its completions has `interval` new tokens.

    The first output goes at once, and so does one that ends a completion.
    """

    __slots__ = ("_has_begun", "_held", "_interval")

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._has_begun = False
        self._held: RequestOutput | None = None

    def add(self, news: RequestOutput) -> RequestOutput | None:
        """Return what is to be told now, or None while it is held."""
        if self._interval == 1:
            return news
        if self._held is not None:
            news = merge_deltas(self._held, news)
        is_held = self._has_begun and self._is_short(news)
        self._has_begun, self._held = True, news if is_held else None
        return None if is_held else news

    def _is_short(self, news: RequestOutput) -> bool:
        return not news.finished and all(
            item.finish_reason is None and len(item.token_ids) < self._interval for item in news.outputs
        )
