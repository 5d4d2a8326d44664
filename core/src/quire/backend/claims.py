"""What a backend does not claim is refused, in one way for all backends: the core looks at `BackendCaps.features`.

A model that needs a feature that is not there does not load; a request is refused at the door; a setting is changed
with its reason. Each message names the feature, which is a row of `quire capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quire.backend.contract import BackendCaps, ConfigChange
from quire.config import EngineConfig
from quire.errors import ModelError

if TYPE_CHECKING:
    from quire.backend.manager import OpenBackend
    from quire.models.spec import ModelSpec
    from quire.sampling import SamplingParams

SEE = "`quire capabilities` shows which backends do"


def check_model(spec: ModelSpec, backend: OpenBackend) -> None:
    """Raise ModelError naming each feature that the model needs and the backend does not claim."""
    missing = [feature for feature in _needed_by_model(spec) if feature not in backend.caps.features]
    if missing:
        what = ", ".join(missing)
        raise ModelError(f"{spec.architecture} needs {what}, which backend {backend.name!r} does not claim; {SEE}")


def changes(config: EngineConfig, spec: ModelSpec, caps: BackendCaps) -> Iterator[ConfigChange]:
    """Yield the settings that what is not claimed changes."""
    if config.enable_prefix_caching and "prefix_cache" not in caps.features:
        yield ConfigChange("enable_prefix_caching", False, "the backend does not claim prefix_cache")
    longest = config.max_model_len or spec.max_model_len
    if "chunked_prefill" not in caps.features and config.max_num_batched_tokens < longest:
        reason = "the backend does not claim chunked_prefill, so a step must hold the longest prompt"
        yield ConfigChange("max_num_batched_tokens", longest, reason)


def reasons_against_request(params: SamplingParams, caps: BackendCaps) -> list[str]:
    """Return why a request cannot be served: each thing that it asks for and the backend does not claim."""
    return [
        f"{what} needs {feature}, which the backend does not claim; {SEE}"
        for what, feature in _needed_by_request(params)
        if feature not in caps.features
    ]


def _needed_by_model(spec: ModelSpec) -> Iterator[str]:
    if any(window is not None for window in spec.windows):
        yield "sliding_window"
    if spec.soft_cap is not None:
        yield "soft_cap"
    if spec.sinks:
        yield "sinks"
    if spec.num_experts:
        yield "moe"


def _needed_by_request(params: SamplingParams) -> Iterator[tuple[str, str]]:
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(params, name) is not None:
            yield name, "logprobs"
    for name, neutral in (("presence_penalty", 0.0), ("frequency_penalty", 0.0), ("repetition_penalty", 1.0)):
        if getattr(params, name) != neutral:
            yield name, "penalties"
    if params.n > 1:
        yield "n > 1", "block_copy"  # samples share the prompt's blocks, and copy the last one when they part
