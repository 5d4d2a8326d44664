"""Comparing tokens, and telling where they part."""

from __future__ import annotations

from collections.abc import Sequence

Tokens = Sequence[Sequence[int]]


def difference(found: Tokens, expected: Tokens) -> str:
    """Return the first place where tokens differ, empty where they do not."""
    if len(found) != len(expected):
        return f"{len(found)} completions, expected {len(expected)}"
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if list(one) != list(other):
            at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
            if at is None:
                return f"request {index} has {len(one)} tokens, expected {len(other)}"
            return f"request {index} parts at output token {at}: {one[at]}, expected {other[at]}"
    return ""


def agreement(found: Tokens, expected: Tokens) -> float:
    """Return the share of tokens that agree before each request's first difference."""
    agreed = total = 0
    for one, other in zip(found, expected, strict=True):
        pairs = [left == right for left, right in zip(one, other, strict=False)]
        agreed += pairs.index(False) if False in pairs else len(pairs)
        total += max(len(one), len(other))
    return agreed / total if total else 1.0
