"""The options of a backend on the host's processors, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from quire.errors import ConfigError
from quire_kernels_cpu.host.processor import Processor

MEANINGS = {
    "threads": "how many threads compute (default: OMP_NUM_THREADS, or else one a physical core)",
    "pin": "on: bind each thread to its core (default: off)",
    "isa": "{variants} (default: the best here)",
    "max_in_flight": "2: plan a step while the last one computes, worth it with a core to spare (default: 1)",
}


class Options(NamedTuple):
    """What the user asked for, defaults filled in. `isa` None: the best."""

    threads: int
    pin: bool
    isa: str | None
    max_in_flight: int


def parse_options(given: Mapping[str, str], processor: Processor) -> Options:
    """Check the values. Raise ConfigError saying what is supported."""
    return Options(
        _threads(given.get("threads"), processor), _pin(given.get("pin", "off")), given.get("isa"), _in_flight(given)
    )


def check_names(given: Mapping[str, str], backend: str, variants: Sequence[str]) -> None:
    """Raise ConfigError on an option that `backend` does not have, saying which it has; `variants` are what `isa` may
    name, the plainest first."""
    unknown = sorted(given.keys() - MEANINGS.keys())
    if unknown:
        names = f"{', '.join(variants[:-1])} or {variants[-1]}"
        known = "; ".join(f"{name}: {meaning.format(variants=names)}" for name, meaning in MEANINGS.items())
        raise ConfigError(f"{backend} has no option {', '.join(unknown)}; it has {known}")


def _threads(text: str | None, processor: Processor) -> int:
    if text is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        text = os.environ["OMP_NUM_THREADS"]
    if text is None:
        return processor.num_threads
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"threads is {text!r}; it must be a number from 1, e.g. {processor.num_threads}")
    return int(text)


def _pin(text: str) -> bool:
    if text not in ("on", "off"):
        raise ConfigError(f"pin is {text!r}; it must be on or off")
    return text == "on"


def _in_flight(given: Mapping[str, str]) -> int:
    text = given.get("max_in_flight", "1")
    if text not in ("1", "2"):
        raise ConfigError(f"max_in_flight is {text!r}; it must be 1 or 2")
    return int(text)
