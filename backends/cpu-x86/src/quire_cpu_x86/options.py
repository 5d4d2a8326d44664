"""The backend's options, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from quire.errors import ConfigError
from quire_cpu_x86.processor import Processor

KNOWN = {
    "threads": "how many threads compute (default: OMP_NUM_THREADS, or else one a physical core)",
    "pin": "on: bind each thread to its core (default: off)",
    "isa": "avx2, avx512 or avx512bf16 (default: the best here)",
    "max_in_flight": "2: plan a step while the last one computes, worth it with a core to spare (default: 1)",
}


class Options(NamedTuple):
    """What the user asked for, defaults filled in. `isa` None: the best."""

    threads: int
    pin: bool
    isa: str | None
    max_in_flight: int


def parse_options(given: Mapping[str, str], processor: Processor) -> Options:
    """Check the options. Raise ConfigError saying what is supported."""
    unknown = given.keys() - KNOWN.keys()
    if unknown:
        known = "; ".join(f"{name}: {meaning}" for name, meaning in KNOWN.items())
        raise ConfigError(f"cpu-x86 has no option {', '.join(sorted(unknown))}; it has {known}")
    return Options(
        _threads(given.get("threads"), processor), _pin(given.get("pin", "off")), given.get("isa"), _in_flight(given)
    )


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
