"""How what is not claimed must be refused: the one way that users see, whatever the backend is.

`quire.backend.claims` refuses for every backend; these functions look at what comes out of it, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quire.backend import claims
from quire.errors import QuireError
from quire.models.spec import ModelSpec
from quire.sampling import SamplingParams
from quire_conformance.target import Target
from quire_conformance.workloads import greedy

ASKING: Mapping[str, SamplingParams] = {
    "logprobs": greedy(logprobs=1),
    "penalties": greedy(repetition_penalty=1.3),
    "block_copy": greedy(n=2, temperature=1.0),
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "sliding_window": {"windows": (9, 9)},
    "soft_cap": {"soft_cap": 30.0},
    "sinks": {"sinks": True},
    "moe": {"num_experts": 4},
}


def problem_with_refusal(target: Target, feature: str) -> str:
    """Return what is wrong with how `feature` is refused; empty if nothing is."""
    if feature in ASKING:
        return _request_problem(target, feature)
    if feature in MODELS:
        return _model_problem(target, feature)
    return OTHERS[feature](target) if feature in OTHERS else ""


def _request_problem(target: Target, feature: str) -> str:
    reasons = [*claims.reasons_against_request(ASKING[feature], target.caps), *_own_reasons(target, feature)]
    return "" if reasons else f"a request that needs it is accepted: {ASKING[feature]}"


def _own_reasons(target: Target, feature: str) -> tuple[str, ...]:
    return target.backend.validate_request(ASKING[feature])


def _model_problem(target: Target, feature: str) -> str:
    from dataclasses import replace

    spec: ModelSpec = replace(target.spec(), **MODELS[feature])
    try:
        claims.check_model(spec, target.backend)
    except QuireError as error:
        return "" if feature in str(error) else f"the error does not name it: {error}"
    return "a model that needs it is accepted"


def _prefix_cache_problem(target: Target) -> str:
    _, context = target.build(enable_prefix_caching=True)
    return "the prefix cache stays on" if context.config.enable_prefix_caching else ""


def _chunk_problem(target: Target) -> str:
    executor, context = target.build(max_num_batched_tokens=target.block_size)
    limits, config = target.caps.schedule, context.config
    if config.max_num_batched_tokens < (config.max_model_len or 0):
        return f"prompts longer than {config.max_num_batched_tokens} tokens would be cut"
    alone = limits.max_prefill_requests == 1 and not limits.mix_prefill_decode
    return "" if alone else "prompts may share a step (it needs max_prefill_requests=1 and mix_prefill_decode=False)"


OTHERS: Mapping[str, Callable[[Target], str]] = {
    "prefix_cache": _prefix_cache_problem,
    "chunked_prefill": _chunk_problem,
}
