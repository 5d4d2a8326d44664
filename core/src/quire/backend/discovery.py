"""What is installed, and whether it can run here: every plugin's manifest, probed one by one.

A plugin is announced by an entry point whose value names a *manifest*: a module that imports nothing but the standard
library (and `quire.backend.contract`), with `API`, `PLUGIN` and `probe()`. Only manifests are imported here, so looking
costs no torch; the plugin behind `PLUGIN` is imported by `quire.backend.manager`, for the winner only. Whatever goes
wrong in one manifest is that candidate's reason and nobody else's trouble.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

from quire.backend.contract import API_VERSION, BACKEND_GROUP, KERNEL_GROUP, Absent, Found
from quire.errors import ConfigError

ALLOW_VARIABLE = "QUIRE_BACKENDS_ALLOW"
DISTRIBUTION = "quire"


@dataclass(frozen=True, slots=True)
class Broken:
    """The manifest cannot be used: it raised, or it does not keep the contract."""

    reason: str


@dataclass(frozen=True, slots=True)
class Barred:
    """An allow-list does not name it, so nothing of it was imported."""

    reason: str
    remedy: str = ""


Outcome = Found | Absent | Broken | Barred


class Candidate(NamedTuple):
    """One entry point and what became of it. `plugin` is the manifest's `PLUGIN`, empty unless it was read; `backends`
    are the backends that a kernel plugin is for, empty for any."""

    name: str
    distribution: str
    outcome: Outcome
    plugin: str = ""
    backends: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        words = {Found: "found", Absent: "absent", Broken: "broken", Barred: "not allowed"}
        return words[type(self.outcome)]

    @property
    def score(self) -> int:
        return self.outcome.score if isinstance(self.outcome, Found) else -1

    @property
    def reason(self) -> str:
        if isinstance(self.outcome, Found):
            return f"score {self.outcome.score}" + ("" if self.outcome.score else ", used only when named")
        return self.outcome.reason

    @property
    def remedy(self) -> str:
        return self.outcome.remedy if isinstance(self.outcome, Absent | Barred) else ""


def discover(allow: Collection[str] | None = None, only: str | None = None) -> tuple[Candidate, ...]:
    """Probe every installed backend (or just the one called `only`) and return them by name.

    Nothing that a plugin does makes this raise. `allow` restricts what may be imported, and so does the environment's
    QUIRE_BACKENDS_ALLOW; where both are given, both must name it. Raises ConfigError if that variable is malformed.
    """
    return _probe_group(BACKEND_GROUP, allowed(allow), only)


def discover_kernels(allow: Collection[str] | None = None) -> tuple[Candidate, ...]:
    """Probe every installed extra kernel plugin (group `quire.kernels`), as `discover` does the backends."""
    return _probe_group(KERNEL_GROUP, allowed(allow))


def allowed(allow: Collection[str] | None) -> frozenset[str] | None:
    """Return the names that both the argument and the environment allow; None means any."""
    lists = [frozenset(names) for names in (allow, _allowed_by_environment()) if names is not None]
    return frozenset.intersection(*lists) if lists else None


def known_backends() -> tuple[str, ...]:
    """Return the backends that the extras of this distribution can install, read from its metadata: the extras
    `NAME` that require `quire-NAME[runtime]`."""
    pattern = re.compile(rf"{DISTRIBUTION}-(?P<name>[\w.-]+)\s*\[runtime\].*extra\s*==\s*['\"](?P=name)['\"]")
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    return tuple(sorted(found["name"] for found in map(pattern.match, requirements) if found))


def install_line(name: str) -> str:
    """Return what to type to install one of `known_backends`."""
    return f"pip install '{DISTRIBUTION}[{name}]'"


def _allowed_by_environment() -> list[str] | None:
    text = os.environ.get(ALLOW_VARIABLE)
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"{ALLOW_VARIABLE} is {text!r}; it must be names separated by commas, or not set at all")
    return names


def _probe_group(group: str, names: frozenset[str] | None, only: str | None = None) -> tuple[Candidate, ...]:
    entries = [entry for entry in _entry_points(group) if only in (None, entry.name)]
    found = [_candidate(entry, names) for entry in entries]
    return tuple(sorted(found, key=lambda candidate: (candidate.name, candidate.distribution)))


def _entry_points(group: str) -> Iterator[metadata.EntryPoint]:
    """Yield each entry once, though a distribution may be seen twice (installed editable, and on the path)."""
    seen: set[tuple[str, str, str]] = set()
    for entry in metadata.entry_points(group=group):
        key = (entry.name, entry.value, _distribution(entry))
        if key not in seen:
            seen.add(key)
            yield entry


def _distribution(entry: metadata.EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version}" if dist is not None else "unknown"


def _candidate(entry: metadata.EntryPoint, names: frozenset[str] | None) -> Candidate:
    if names is not None and entry.name not in names:
        listed = ", ".join(sorted(names)) or "nothing"
        remedy = f"name it in {ALLOW_VARIABLE} too" if ALLOW_VARIABLE in os.environ else ""
        return Candidate(entry.name, _distribution(entry), Barred(f"the allow-list names {listed}", remedy))
    try:
        manifest = importlib.import_module(entry.value)
        problem = _manifest_problem(manifest)
        outcome = Broken(problem) if problem else _checked(manifest.probe())
        plugin, backends = str(getattr(manifest, "PLUGIN", "")), tuple(getattr(manifest, "BACKENDS", ()))
    except (Exception, SystemExit) as error:  # a plugin may do anything; it must not take the others down
        return Candidate(entry.name, _distribution(entry), Broken(describe_error(error)))
    return Candidate(entry.name, _distribution(entry), outcome, plugin, backends)


def _manifest_problem(manifest: Any) -> str:
    missing = [name for name in ("API", "PLUGIN", "probe") if not hasattr(manifest, name)]
    if missing:
        return f"its manifest {manifest.__name__} has no {', '.join(missing)}"
    if not (isinstance(manifest.PLUGIN, str) and re.fullmatch(r"[\w.]+(:[\w.]+)?", manifest.PLUGIN)):
        return f"its PLUGIN is {manifest.PLUGIN!r}; it must be 'package.module' or 'package.module:attribute'"
    backends = getattr(manifest, "BACKENDS", ())
    if not (isinstance(backends, tuple) and all(isinstance(name, str) for name in backends)):
        return f"its BACKENDS is {backends!r}; it must be a tuple of names"
    return _api_problem(manifest.API)


def _api_problem(api: object) -> str:
    ours = ".".join(map(str, API_VERSION))
    if not (isinstance(api, tuple) and len(api) == 2 and all(type(number) is int for number in api)):
        return f"its API is {api!r}; it must be a pair of integers such as {API_VERSION}"
    if api[0] != API_VERSION[0]:
        return f"it was built for plugin API {api[0]}.{api[1]}, this quire has {ours}; install versions that match"
    if api[1] > API_VERSION[1]:
        return f"it needs plugin API {api[0]}.{api[1]}, this quire has {ours}; upgrade quire"
    return ""


def _checked(outcome: object) -> Outcome:
    if not isinstance(outcome, Found | Absent):
        return Broken(f"probe() returned {outcome!r}; it must return Found or Absent")
    if isinstance(outcome, Found) and not (type(outcome.score) is int and outcome.score >= 0):
        return Broken(f"probe() returned score {outcome.score!r}; it must be an integer of at least 0")
    return outcome


def describe_error(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def table(candidates: Iterable[Candidate], without: str = "") -> str:
    """Return the candidates and the backends that could be installed, one indented line each, for error messages:
    all but the one called `without`."""
    candidates = list(candidates)
    lines = [_line(candidate) for candidate in candidates if candidate.name != without]
    here = {candidate.name for candidate in candidates}
    lines += [f"  {name}: not installed; {install_line(name)}" for name in known_backends() if name not in here]
    return "\n".join(lines)


def _line(candidate: Candidate) -> str:
    hint = f"--backend {candidate.name}" if isinstance(candidate.outcome, Found) else candidate.remedy
    return f"  {candidate.name}: {candidate.status}: {candidate.reason}" + (f"; {hint}" if hint else "")
