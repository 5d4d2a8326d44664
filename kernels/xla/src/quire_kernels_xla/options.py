"""Options of XLA backends, as `--backend-option NAME=VALUE` gives them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quire.errors import ConfigError

RUNTIMES = {"jax": "torchax", "torch_xla": "torch_xla"}  # what has to be installed for each, beside JAX


@dataclass(frozen=True)
class Options:
    """`device`: the chip's platform, or "cpu" to run the same programs on XLA's CPU device, for tests. `ahead`: compile
    every program when the engine starts, so that no request waits for a compilation; otherwise when it is first used.
    `runtime`: what runs the core's torch functions on XLA.
    """

    device: str
    ahead: bool = True
    runtime: str = "jax"


def parse_options(backend: str, given: Mapping[str, str], runtimes: Sequence[str] = ("jax",)) -> Options:
    """Return the options of a backend. Raise ConfigError on a name or a value that does not exist."""
    choices = {"device": (backend, "cpu"), "compile": ("ahead", "lazily"), "runtime": tuple(runtimes)}
    for name, value in given.items():
        if name not in choices:
            raise ConfigError(f"the {backend} backend has no option {name!r}; it has {', '.join(choices)}")
        if value not in choices[name]:
            raise ConfigError(f"{name} is {value!r}; it must be {' or '.join(choices[name])}")
    runtime = given.get("runtime", _installed(runtimes))
    return Options(given.get("device", backend), given.get("compile", "ahead") == "ahead", runtime)


def _installed(runtimes: Sequence[str]) -> str:
    """Return the first runtime that is installed; if none is, the last, whose import says what is missing."""
    here = [name for name in runtimes if importlib.util.find_spec(RUNTIMES[name]) is not None]
    return (here or list(runtimes)[-1:])[0]
