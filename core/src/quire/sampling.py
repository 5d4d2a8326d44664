"""SamplingParams: how one request wants its tokens. Plain frozen data; checked once, when it is made."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

import msgspec


class OutputKind(StrEnum):
    CUMULATIVE = "cumulative"  # each output holds all text so far
    DELTA = "delta"  # each output holds what is new
    FINAL_ONLY = "final_only"  # one output, at the end


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A constraint on the text: exactly one of the kinds."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields and meanings are vLLM's, so that a caller of it changes an import."""

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    detokenize: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    structured_outputs: StructuredOutputs | None = None
    priority: int = 0
    output_kind: OutputKind = OutputKind.CUMULATIVE

    ALL_LOGPROBS: ClassVar[int] = -1
