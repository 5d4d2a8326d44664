"""Settings of an engine: frozen; every change after the user's own carries a reason.

`resolve` applies what the backend needs (`ConfigPatch`) once, before anything is built, and returns a new config and
the changes; nothing mutates a config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

import msgspec

from quire.backend.contract import ConfigChange
from quire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run one model. `None` means: derived from the model, the backend or the machine."""

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    backend: str | None = None
    backend_options: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "auto"  # "auto": the checkpoint's, where the backend has it
    kv_dtype: str = "auto"
    load_format: Literal["safetensors", "dummy"] = "safetensors"
    trust_remote_code: bool = False
    max_model_len: int | None = None
    max_num_seqs: int = 256  # rows of the device batch
    max_num_batched_tokens: int = 2048  # token budget of a step
    block_size: int | None = None
    num_blocks: int | None = None  # exact KV blocks, instead of sizing by memory
    memory_utilization: float = 0.9  # share of the device's memory that weights, workspace and KV may take
    memory_bytes: int | None = None  # the same as bytes
    watermark: float = 0.01  # share of blocks kept free when admitting, so that running requests can grow
    enable_prefix_caching: bool = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    overlap: bool = True  # submit step n+1 before collecting step n, where the backend can
    enforce_eager: bool = False
    seed: int = 0
    max_logprobs: int = 20
    max_queued_requests: int | None = None
    max_queued_tokens: int | None = None
    record: str | None = None  # file to record arrivals and decisions into, for `quire replay`

    def __post_init__(self) -> None:
        _check(0 < self.memory_utilization <= 1, "memory_utilization", self.memory_utilization, "in (0, 1]")
        _check(0 <= self.watermark < 1, "watermark", self.watermark, "in [0, 1)")
        _check(self.policy in ("fcfs", "priority"), "policy", self.policy, "fcfs or priority")
        _check(
            self.load_format in ("safetensors", "dummy"),
            "load_format",
            self.load_format,
            "safetensors or dummy",
        )
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_model_len", "block_size", "num_blocks", "memory_bytes"):
            value = getattr(self, name)
            _check(value is None or value >= 1, name, value, "at least 1")


class Resolved(NamedTuple):
    """A config as it will run, and what was changed on the way."""

    config: EngineConfig
    changes: tuple[ConfigChange, ...]


def make_config(settings: Mapping[str, Any]) -> EngineConfig:
    """Build a config from keyword settings. Raise ConfigError on a name that does not exist, with the nearest one, and
    on a value of the wrong type."""
    known = {item.name: str(item.type) for item in fields(EngineConfig)}
    types = get_type_hints(EngineConfig)
    given = {name: fspath(value) if isinstance(value, PathLike) else value for name, value in settings.items()}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{_nearest(name, known)}")
        if get_origin(types[name]) is not Literal:  # EngineConfig itself tells these better
            _check(_is_a(value, types[name]), name, value, known[name])
    return EngineConfig(**given)


def resolve(config: EngineConfig, changes: Iterable[ConfigChange]) -> Resolved:
    """Apply the changes in order, last one wins; keep only those that change something."""
    applied: list[ConfigChange] = []
    for change in changes:
        if getattr(config, change.field) == change.value:
            continue
        config = replace(config, **{change.field: change.value})
        applied.append(change)
    return Resolved(config, tuple(applied))


def _is_a(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _check(ok: bool, name: str, value: object, supported: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value!r}; it must be {supported}")


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; settings are {', '.join(sorted(known))}"
