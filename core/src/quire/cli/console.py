"""Where the commands write: results to stdout, everything else to stderr."""

from __future__ import annotations

from rich.console import Console


def out() -> Console:
    """Return the console of results. Text of models is not markup and is not wrapped."""
    return Console(highlight=False, markup=False, soft_wrap=True, emoji=False)


def notes() -> Console:
    """Return the console of notes, progress and summaries."""
    return Console(stderr=True, highlight=False)
