"""`conformance.toml`: which backend to hold to the suite, and how. `backend = "NAME"` is all that it needs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from quire.errors import ConfigError

FILE_NAME = "conformance.toml"
LEVELS: Mapping[int, str] = {
    0: "manifest and hygiene",
    1: "contract and types",
    2: "memory and KV invariants",
    3: "ops against the fp64 reference",
    4: "executor equivalences",
    5: "programs, and no hook in a step",
    6: "collectives",
    7: "engine under faults",
}


@dataclass(frozen=True)
class Settings:
    """What one `conformance.toml` says. `levels` None: those of the backend's own profile; `options` are the
    backend's, as `--backend-option` gives them; `threads` is how many torch may use (the shapes are tiny); `ranks` how
    many processes level 6 starts, each with a device of its own."""

    backend: str
    levels: tuple[int, ...] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    ranks: int = 3

    def __post_init__(self) -> None:
        unknown = set(self.levels or ()) - LEVELS.keys()
        if unknown:
            raise ConfigError(f"levels {sorted(unknown)} do not exist; levels are 0 to {max(LEVELS)}")
        if self.ranks < 2:
            raise ConfigError(f"ranks is {self.ranks}; collectives need at least 2")


def read_settings(path: Path) -> Settings:
    """Read the file. Raise ConfigError on a key that does not exist, or without `backend`."""
    try:
        return make_settings(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Build settings from plain values. Raise ConfigError as `read_settings` does."""
    known = [item.name for item in fields(Settings)]
    unknown = values.keys() - set(known)
    if unknown or "backend" not in values:
        what = f"unknown keys {sorted(unknown)}" if unknown else "there is no backend"
        raise ConfigError(f'{what}; a {FILE_NAME} has backend = "NAME", and may have {", ".join(known[1:])}')
    levels = values.get("levels")
    return Settings(**{**values, "levels": None if levels is None else tuple(sorted(levels))})


def parse_levels(text: str) -> tuple[int, ...]:
    """Return the levels meant by "3" or "0..4". Raise ConfigError on anything else."""
    first, dots, last = text.partition("..")
    if not (first.isdigit() and (last.isdigit() or not dots)):
        raise ConfigError(f"--level is {text!r}; it must be a level such as 3, or a range such as 0..4")
    return Settings("", tuple(range(int(first), int(last or first) + 1))).levels or ()


def write_settings(settings: Settings, path: Path) -> None:
    """Write a file that `read_settings` reads back."""
    lines = [f'backend = "{settings.backend}"', f"threads = {settings.threads}", f"ranks = {settings.ranks}"]
    if settings.levels is not None:
        lines.append(f"levels = {list(settings.levels)}")
    lines += ["[options]", *(f'"{name}" = "{value}"' for name, value in settings.options.items())]
    path.write_text("\n".join(lines) + "\n")
