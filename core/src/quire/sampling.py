"""SamplingParams: how one request wants its tokens. Plain frozen data; checked once, when it is made.

Convenient spellings are brought to one form on the way in: a single string or a list where a tuple is meant, None for
"no stop strings", and vLLM's `top_k=-1` for "off". What needs the model or the config is checked by `check_limits`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, ClassVar

import msgspec
from msgspec.structs import force_setattr

from quire.errors import RequestError

INT64 = (-(2**63), 2**63 - 1)
TOLD_CHARS = 500  # of a wrong value, in the error that tells it


class OutputKind(StrEnum):
    CUMULATIVE = "cumulative"  # each output holds all text so far
    DELTA = "delta"  # each output holds what is new
    FINAL_ONLY = "final_only"  # one output, at the end


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A constraint on the text: exactly one of the kinds. Raise RequestError if it cannot be one."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def __post_init__(self) -> None:
        if self.choice is not None:
            force_setattr(self, "choice", _strings("structured_outputs.choice", self.choice))
        given = [name for name in self.__struct_fields__ if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            kinds = ", ".join(self.__struct_fields__)
            raise _refusal("structured_outputs", given, f"exactly one of {kinds}")
        getattr(self, f"_check_{given[0]}")()

    def _check_json(self) -> None:
        schema = self.json
        if isinstance(schema, str):
            schema = _parse_json(schema)
        if not isinstance(schema, dict):
            raise _refusal("structured_outputs.json", self.json, "a JSON schema: an object, or its JSON text")

    def _check_regex(self) -> None:
        assert self.regex is not None, "checked because it was given"
        try:
            re.compile(self.regex)
        except re.error as error:
            raise _refusal("structured_outputs.regex", self.regex, f"a regular expression ({error})") from error

    def _check_choice(self) -> None:
        if not self.choice or "" in self.choice:
            raise _refusal("structured_outputs.choice", self.choice, "at least one string, none of them empty")

    def _check_grammar(self) -> None:
        if not self.grammar or not self.grammar.strip():
            raise _refusal("structured_outputs.grammar", self.grammar, "the text of a grammar")

    def _check_json_object(self) -> None:
        """`True` is all that it can be."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields and meanings are vLLM's, so that a caller of it changes an import.

    `temperature` 0 is greedy: the most probable token, whatever `top_p`, `top_k`, `min_p` and `seed` say. `top_k` 0 is
    off. `logprobs` and `prompt_logprobs` are how many beside the chosen token; -1 is the whole vocabulary.

    Raise RequestError, whose `param` names the field, on a value out of range.
    """

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
    MAX_N: ClassVar[int] = 16384
    MAX_STRINGS: ClassVar[int] = 1024  # of stop, and of bad_words: each costs time in admission or in every step

    def __post_init__(self) -> None:
        _normalise(self)
        _check_lengths(self)
        _check_distribution(self)
        _check_penalties(self)
        _check_stops(self)
        _check_logprobs(self)
        _check_vocabulary(self)


def check_limits(params: SamplingParams, *, vocab_size: int, max_logprobs: int) -> None:
    """Check what only the model and the config know: token ids and the number of logprobs. Raise RequestError."""
    in_vocabulary = f"token ids in 0 … {vocab_size - 1}"
    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        wrong = [token for token in getattr(params, name) or () if token >= vocab_size]
        _require(not wrong, name, wrong, in_vocabulary)
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(params, name)
        if count is None:
            continue
        count = vocab_size if count == SamplingParams.ALL_LOGPROBS else count
        allowed = f"at most max_logprobs = {max_logprobs}; start the engine with a larger one"
        _require(count <= max_logprobs or max_logprobs < 0, name, count, allowed)


# -- one form ----------------------------------------------------------------------------------------------------------


def _normalise(params: SamplingParams) -> None:
    force_setattr(params, "stop", _strings("stop", params.stop))
    force_setattr(params, "bad_words", _strings("bad_words", params.bad_words))
    force_setattr(params, "stop_token_ids", _integers("stop_token_ids", params.stop_token_ids or ()))
    if params.allowed_token_ids is not None:
        force_setattr(params, "allowed_token_ids", _integers("allowed_token_ids", params.allowed_token_ids))
    if params.logit_bias is not None:
        force_setattr(params, "logit_bias", _biases(params.logit_bias))
    if params.top_k == -1:
        force_setattr(params, "top_k", 0)
    if isinstance(params.structured_outputs, dict):
        force_setattr(params, "structured_outputs", StructuredOutputs(**params.structured_outputs))
    if not isinstance(params.output_kind, OutputKind):
        force_setattr(params, "output_kind", _output_kind(params.output_kind))


def _strings(name: str, value: str | Iterable[str] | None) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else tuple(value or ())
    _require(all(isinstance(item, str) for item in items), name, value, "a string or a list of strings")
    return items


def _integers(name: str, value: Iterable[int]) -> tuple[int, ...]:
    items = tuple(value)
    _require(all(_is_int(item) and item >= 0 for item in items), name, value, "a list of token ids, each at least 0")
    return items


def _biases(value: dict[Any, Any]) -> dict[int, float]:
    """JSON objects have string keys, so `{"42": 1}` is meant as token 42."""
    try:
        return {int(token): float(bias) for token, bias in value.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise _refusal("logit_bias", value, "a mapping of token id to bias") from error


def _output_kind(value: object) -> OutputKind:
    try:
        return OutputKind(str(value))
    except ValueError as error:
        raise _refusal("output_kind", value, f"one of {', '.join(OutputKind)}") from error


# -- ranges ------------------------------------------------------------------------------------------------------------


def _check_lengths(params: SamplingParams) -> None:
    _integer("n", params.n, 1, SamplingParams.MAX_N)
    if params.max_tokens is not None:
        _integer("max_tokens", params.max_tokens, 1)
    _integer("min_tokens", params.min_tokens, 0)
    most = params.max_tokens
    _require(most is None or params.min_tokens <= most, "min_tokens", params.min_tokens, f"at most max_tokens = {most}")
    _integer("priority", params.priority, *INT64, "a signed 64-bit integer; lower goes first")


def _check_distribution(params: SamplingParams) -> None:
    _number("temperature", params.temperature, 0, math.inf, "a finite number, at least 0 (0 is greedy)")
    _number("top_p", params.top_p, 0, 1, "in (0, 1]")
    _require(params.top_p > 0, "top_p", params.top_p, "in (0, 1]")
    _number("min_p", params.min_p, 0, 1, "in [0, 1]")
    _integer("top_k", params.top_k, 0, 2**31 - 1, "in 1 … 2147483647, or 0 or -1 for off")
    if params.seed is not None:
        _integer("seed", params.seed, *INT64, "a signed 64-bit integer")
    greedy_copies = params.n > 1 and params.temperature == 0
    _require(not greedy_copies, "n", params.n, "1 when temperature is 0: greedy choices would all be the same")


def _check_penalties(params: SamplingParams) -> None:
    _number("presence_penalty", params.presence_penalty, -2, 2, "in [-2, 2]")
    _number("frequency_penalty", params.frequency_penalty, -2, 2, "in [-2, 2]")
    _number("repetition_penalty", params.repetition_penalty, 0, math.inf, "greater than 0")
    _require(params.repetition_penalty > 0, "repetition_penalty", params.repetition_penalty, "greater than 0")


def _check_stops(params: SamplingParams) -> None:
    for name in ("stop", "bad_words"):
        strings = getattr(params, name)
        _require("" not in strings, name, strings, "strings that are not empty")
        most = SamplingParams.MAX_STRINGS
        _require(len(strings) <= most, name, strings, f"at most {most} strings, not {len(strings)}")
    unseen = bool(params.stop) and not params.detokenize
    _require(not unseen, "stop", params.stop, "empty when detokenize is False: stop strings are searched in the text")


def _check_logprobs(params: SamplingParams) -> None:
    for name in ("logprobs", "prompt_logprobs"):
        value = getattr(params, name)
        if value is not None:
            _integer(name, value, SamplingParams.ALL_LOGPROBS, None, "at least 0, or -1 for the whole vocabulary")


def _check_vocabulary(params: SamplingParams) -> None:
    biases = params.logit_bias or {}
    _require(all(token >= 0 for token in biases), "logit_bias", biases, "a mapping of token ids, each at least 0")
    in_range = all(-100 <= bias <= 100 for bias in biases.values())
    _require(in_range, "logit_bias", biases, "biases in [-100, 100]")
    _require(params.allowed_token_ids != (), "allowed_token_ids", (), "not empty; leave it out to allow all tokens")
    kind = params.structured_outputs
    _require(
        kind is None or isinstance(kind, StructuredOutputs), "structured_outputs", kind, "a StructuredOutputs or a dict"
    )


def _integer(name: str, value: object, low: int, high: int | None = None, supported: str = "") -> None:
    text = supported or (f"at least {low}" if high is None else f"in {low} … {high}")
    _require(_is_int(value) and low <= value and (high is None or value <= high), name, value, text)  # type: ignore[operator]


def _number(name: str, value: object, low: float, high: float, supported: str) -> None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _require(fine and low <= value <= high, name, value, supported)  # type: ignore[operator]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _refusal("structured_outputs.json", text, f"a JSON schema ({error})") from error


def _require(ok: bool, name: str, value: object, supported: str) -> None:
    if not ok:
        raise _refusal(name, value, supported)


def _refusal(name: str, value: object, supported: str) -> RequestError:
    told = repr(value)
    told = told if len(told) <= TOLD_CHARS else f"{told[:TOLD_CHARS]}…"
    return RequestError(f"{name} is {told}; it must be {supported}", param=name)
