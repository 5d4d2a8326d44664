"""Options of the null backend: what device it plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from quire.backend.contract import ScheduleConstraints
from quire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NullOptions:
    """A step takes ``step_us + row_us * rows + token_us * tokens`` microseconds of simulated device time.

    `memory_gib` is what the KV cache may take where the config fixes neither bytes nor blocks. `verify` is "light"
    (shape and place of all work) or "full" (also the content of every slot that is read: slower). The rest are the
    device's limits, as in `ScheduleConstraints`; buckets are written "64,256".
    """

    step_us: float = 0.0
    row_us: float = 0.0
    token_us: float = 0.0
    memory_gib: float = 16.0
    max_in_flight: int = 2
    verify: str = "light"
    mix_prefill_decode: bool = True
    max_prefill_requests: int | None = None
    chunk_multiple: int = 1
    token_buckets: tuple[int, ...] = ()
    row_buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("step_us", "row_us", "token_us", "memory_gib"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _check(self.max_in_flight >= 1, "max_in_flight", self.max_in_flight, "at least 1")
        _check(self.chunk_multiple >= 1, "chunk_multiple", self.chunk_multiple, "at least 1")
        _check(self.verify in ("light", "full"), "verify", self.verify, "light or full")

    @property
    def schedule(self) -> ScheduleConstraints:
        return ScheduleConstraints(
            mix_prefill_decode=self.mix_prefill_decode,
            max_prefill_requests=self.max_prefill_requests,
            chunk_multiple=self.chunk_multiple,
            token_buckets=self.token_buckets,
            row_buckets=self.row_buckets,
        )


def parse_options(options: Mapping[str, str]) -> NullOptions:
    """Read the user's options. Raise ConfigError on a name that does not exist or a value that cannot be read."""
    readers = {item.name: _READERS[str(item.type)] for item in fields(NullOptions)}
    unknown = sorted(options.keys() - readers.keys())
    if unknown:
        raise ConfigError(f"the null backend has no option {unknown}; options are {', '.join(sorted(readers))}")
    return NullOptions(**{name: _read(name, text, readers[name]) for name, text in options.items()})


def _read(name: str, text: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"option {name} of the null backend is {text!r}, which cannot be read ({error})") from error


def _buckets(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(item) for item in text.split(",")))


def _flag(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


_READERS: Mapping[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "int | None": int,
    "str": str,
    "bool": _flag,
    "tuple[int, ...]": _buckets,
}


def _check(ok: bool, name: str, value: object, supported: str) -> None:
    if not ok:
        raise ConfigError(f"option {name} of the null backend is {value!r}; it must be {supported}")
