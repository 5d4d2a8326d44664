"""Which backend runs: the one that was named, or the one clear winner. Never a fallback in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from quire.backend import discovery
from quire.backend.contract import Found, Selection
from quire.backend.discovery import Candidate
from quire.errors import BackendError


class Choice(NamedTuple):
    """The candidate that was chosen, and why."""

    winner: Candidate
    reason: str


def select(
    name: str | None = None, options: Mapping[str, str] | None = None, allow: Collection[str] | None = None
) -> Selection:
    """Return the backend called `name`, or without a name the one that scores highest (above 0).

    Raises BackendError listing every candidate, its reason and what to type, when the named one cannot run here, when
    none can, or when two tie.
    """
    candidates = discovery.discover(allow)
    winner, reason = named(name, candidates) if name is not None else _highest(candidates)
    assert isinstance(winner.outcome, Found)
    return Selection(winner.name, dict(winner.outcome.facts), reason, dict(options or {}))


def named(name: str, candidates: Sequence[Candidate]) -> Choice:
    """Return the one candidate called `name`. Raise BackendError with the reasons if it cannot be used."""
    matches = [candidate for candidate in candidates if candidate.name == name]
    found = [candidate for candidate in matches if isinstance(candidate.outcome, Found)]
    if not matches:
        raise _refusal(f"there is no backend {name!r}{_did_you_mean(name, candidates)}", candidates)
    if len(matches) > 1:
        dists = " and ".join(candidate.distribution for candidate in matches)
        raise _refusal(f"backend {name!r} is provided by {dists}; uninstall one", candidates)
    if not found:
        remedy = f"; {matches[0].remedy}" if matches[0].remedy else ""
        what = f"backend {name!r} is {matches[0].status}: {matches[0].reason}{remedy}"
        raise _refusal(what, candidates, without=name)
    return Choice(found[0], "it was named")


def _highest(candidates: Sequence[Candidate]) -> Choice:
    eligible = [candidate for candidate in candidates if candidate.score > 0]
    if not eligible:
        raise _refusal("no backend can run here, and none was named", candidates)
    best = max(candidate.score for candidate in eligible)
    winners = [candidate for candidate in eligible if candidate.score == best]
    if len(winners) > 1:
        names = " and ".join(f"{candidate.name!r} ({candidate.distribution})" for candidate in winners)
        raise _refusal(f"backends {names} tie at score {best}; name one of them", candidates)
    return Choice(winners[0], f"it scores {best}, the highest of {len(eligible)} that can run here")


def _refusal(what: str, candidates: Sequence[Candidate], without: str = "") -> BackendError:
    listing = discovery.table(candidates, without)
    lines = [what] + (["backends:", listing] if listing else [])
    found = [candidate.name for candidate in candidates if isinstance(candidate.outcome, Found)]
    here = f"found here: {', '.join(dict.fromkeys(found)) or 'none'}"
    return BackendError("\n".join([*lines, f"{here}; choose one with --backend NAME (in Python: backend='NAME')"]))


def _did_you_mean(name: str, candidates: Iterable[Candidate]) -> str:
    if name in discovery.known_backends():
        return f" installed; {discovery.install_line(name)}"
    close = get_close_matches(name, [candidate.name for candidate in candidates], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
