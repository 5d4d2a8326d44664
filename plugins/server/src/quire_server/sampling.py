"""From a request's fields to `SamplingParams`: what was given, over what the model's makers advise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.sampling import OutputKind, SamplingParams
from quire_server.errors import ApiError
from quire_server.requests import SAMPLING_FIELDS, ChatRequest, CompletionRequest, SamplingFields

NOT_SERVED = "is not served by this version"


def completion_params(request: CompletionRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Return a completion's parameters. Raise ApiError, RequestError."""
    _refuse_unserved(request)
    if request.suffix:
        raise ApiError(400, f"suffix {NOT_SERVED}; put all of the text into prompt", param="suffix", code="unsupported")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise ApiError(400, f"best_of {NOT_SERVED}; ask for n and choose", param="best_of", code="unsupported")
    given = _given(request, defaults)
    max_tokens = given.pop("max_tokens", 16) if request.max_tokens is None else request.max_tokens
    prompt_logprobs = request.logprobs if request.echo else request.prompt_logprobs
    if request.echo and max_tokens == 0:  # the prompt alone; the engine makes one token, which is thrown away
        max_tokens = 1
    return SamplingParams(
        **{**given, "max_tokens": max_tokens, "logprobs": request.logprobs, "prompt_logprobs": prompt_logprobs}
    )


def chat_params(request: ChatRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """Return a chat's parameters; without a limit it may be as long as the context. Raise ApiError, RequestError."""
    _refuse_unserved(request)
    _refuse_tools(request)
    given = _given(request, defaults)
    asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    max_tokens = asked if asked is not None else given.pop("max_tokens", None)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return SamplingParams(
        **{**given, "max_tokens": max_tokens, "logprobs": logprobs, "prompt_logprobs": request.prompt_logprobs}
    )


def _given(request: SamplingFields, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that both kinds of request share."""
    fields = {name: getattr(request, name) for name in SAMPLING_FIELDS}
    kind = OutputKind.DELTA if request.stream else OutputKind.FINAL_ONLY
    given = {name: value for name, value in fields.items() if value is not None}
    return {**defaults, **given, "output_kind": kind}


def _refuse_unserved(request: SamplingFields) -> None:
    wanted = (request.response_format or {"type": "text"}).get("type")
    if wanted not in ("text", "json_object", "json_schema"):
        message = f"response_format.type is {wanted!r}; it must be text, json_object or json_schema"
        raise ApiError(400, message, param="response_format", code="invalid_value")
    if wanted != "text":
        message = f"response_format {wanted!r} {NOT_SERVED}; leave it out and check the text yourself"
        raise ApiError(400, message, param="response_format", code="unsupported")


def _refuse_tools(request: ChatRequest) -> None:
    """Tools may be declared where none is to be called."""
    for name in ("functions", "function_call"):
        if getattr(request, name):
            raise ApiError(400, f"{name} {NOT_SERVED}; leave it out", param=name, code="unsupported")
    if request.tools and request.tool_choice != "none":
        message = f"calling tools {NOT_SERVED}; leave tools out, or set tool_choice to 'none'"
        raise ApiError(400, message, param="tools", code="unsupported")
