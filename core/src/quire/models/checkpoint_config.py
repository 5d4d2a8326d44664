"""A checkpoint's config.json, read without torch, with errors that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.errors import ModelError

DTYPES = {"float": "float32", "half": "float16"}


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """The keys of a config.json. A key that is null counts as absent."""

    values: Mapping[str, Any]
    where: str = "config.json"

    def __getitem__(self, key: str) -> Any:
        """Return the value of a key that must be there. Raise ModelError if it is not."""
        value = self.values.get(key)
        if value is None:
            raise ModelError(f"{self.where} has no {key!r}, which {self.architecture} needs; is the folder complete?")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value, or the default where it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def part(self, key: str) -> CheckpointConfig:
        """Return a nested config, with the architecture of the whole."""
        return CheckpointConfig({"architectures": [self.architecture], **self[key]}, f"{self.where}, {key}")

    def with_defaults(self, **defaults: Any) -> CheckpointConfig:
        """Return the config with values for keys that are absent; a key that is there as null stays so."""
        return CheckpointConfig({**defaults, **self.values}, self.where)

    @property
    def architecture(self) -> str:
        """Return the first of `architectures`. Raise ModelError if there is none."""
        names = self.values.get("architectures") or []
        if not names:
            raise ModelError(f"{self.where} names no architectures; add one, such as LlamaForCausalLM")
        return str(names[0])

    @property
    def dtype(self) -> str:
        """Return the checkpoint's dtype by torch's name."""
        name = str(self.get("dtype", self.get("torch_dtype", "float32"))).removeprefix("torch.")
        return DTYPES.get(name, name)


def read_config(path: Path) -> CheckpointConfig:
    """Read `path`/config.json. Raise ModelError when it is missing or no JSON object."""
    return CheckpointConfig(read_json(path / "config.json"), str(path / "config.json"))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raise ModelError, naming the file, when that cannot be done."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{file.parent} has no {file.name}; a model folder needs config.json and *.safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} holds {type(values).__name__}, not a JSON object")
    return values


def eos_token_ids(path: Path, config: CheckpointConfig) -> tuple[int, ...]:
    """Return every end-of-sequence id that config.json and generation_config.json name, ascending."""
    found: set[int] = set()
    file = path / "generation_config.json"
    generation = read_json(file) if file.exists() else {}
    for value in (config.get("eos_token_id"), generation.get("eos_token_id")):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return tuple(sorted(found))
