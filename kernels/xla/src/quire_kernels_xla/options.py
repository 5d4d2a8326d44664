"""Options of XLA backends, as `--backend-option NAME=VALUE` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quire.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """`device`: the chip's platform, or "cpu" to run the same programs on XLA's CPU device, for tests. `ahead`: compile
    every program when the engine starts, so that no request waits for a compilation; otherwise when it is first used.
    """

    device: str
    ahead: bool = True


def parse_options(backend: str, given: Mapping[str, str]) -> Options:
    """Return the options of a backend. Raise ConfigError on a name or a value that does not exist."""
    choices = {"device": (backend, "cpu"), "compile": ("ahead", "lazily")}
    for name, value in given.items():
        if name not in choices:
            raise ConfigError(f"the {backend} backend has no option {name!r}; it has {', '.join(choices)}")
        if value not in choices[name]:
            raise ConfigError(f"{name} is {value!r}; it must be {' or '.join(choices[name])}")
    return Options(given.get("device", backend), given.get("compile", "ahead") == "ahead")
