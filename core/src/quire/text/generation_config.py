"""What a model folder's generation_config.json says: where sequences end, and the sampling its makers advise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from quire.errors import ModelError
from quire.sampling import SamplingParams

SAMPLING_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
        "max_new_tokens": "max_tokens",
    }
)
"""Names in the file, and SamplingParams' names for them."""


class GenerationDefaults(NamedTuple):
    """`eos_token_ids` end a sequence; `sampling` are the fields of SamplingParams that the file sets."""

    eos_token_ids: frozenset[int] = frozenset()
    sampling: Mapping[str, Any] = MappingProxyType({})

    def sampling_params(self) -> SamplingParams:
        """Return the parameters that a request without any gets."""
        return SamplingParams(**self.sampling)


NO_DEFAULTS = GenerationDefaults()


def read_generation_defaults(path: Path) -> GenerationDefaults:
    """Read a model folder's generation_config.json; no file, no defaults. Raise ModelError on a bad one."""
    file = path / "generation_config.json"
    if not file.is_file():
        return NO_DEFAULTS
    try:
        values = json.loads(file.read_text("utf-8"))
        sampling = {ours: values[theirs] for theirs, ours in SAMPLING_FIELDS.items() if values.get(theirs) is not None}
        defaults = GenerationDefaults(_as_ids(values.get("eos_token_id")), MappingProxyType(sampling))
        defaults.sampling_params()
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} cannot be used: {error}") from error
    return defaults


def _as_ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
