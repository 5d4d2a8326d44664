"""SamplingParams: one form on the way in, a refusal that names field, value and range."""

import json
import math

import msgspec
import pytest

from quire.errors import RequestError
from quire.sampling import OutputKind, SamplingParams, StructuredOutputs, check_limits

REFUSED = [
    ("n", 0),
    ("n", 16385),
    ("n", True),
    ("max_tokens", 0),
    ("min_tokens", -1),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", "hot"),
    ("top_p", 0.0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("top_k", 1.5),
    ("top_k", 2**31),
    ("min_p", -0.01),
    ("min_p", 1.01),
    ("presence_penalty", 2.01),
    ("frequency_penalty", -2.01),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", -1.0),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("seed", "1"),
    ("stop", ""),
    ("stop", ("a", "")),
    ("stop", (1,)),
    ("stop_token_ids", (-1,)),
    ("stop_token_ids", ("7",)),
    ("logprobs", -2),
    ("prompt_logprobs", -2),
    ("logit_bias", {1: 100.5}),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", {-1: 0.0}),
    ("logit_bias", {"x": 0.0}),
    ("allowed_token_ids", ()),
    ("allowed_token_ids", (-5,)),
    ("bad_words", ("",)),
    ("priority", 0.5),
    ("priority", 2**63),
    ("stop", ["x"] * 1025),
    ("bad_words", ["x"] * 1025),
    ("output_kind", "some"),
    ("structured_outputs", "json"),
]
ACCEPTED = [
    ("max_tokens", None),
    ("temperature", 0),
    ("top_p", 1),
    ("min_p", 1.0),
    ("presence_penalty", -2),
    ("frequency_penalty", 2),
    ("repetition_penalty", 1e-6),
    ("seed", 2**63 - 1),
    ("seed", -(2**63)),
    ("logprobs", -1),
    ("prompt_logprobs", 0),
    ("logit_bias", {0: -100.0, 5: 100.0}),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_by_field_and_value(name, value):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert name in str(caught.value)
    assert "must be" in str(caught.value)


def test_a_wrong_value_is_told_in_a_few_words():
    with pytest.raises(RequestError) as caught:
        SamplingParams(stop_token_ids=[-1] * 100_000)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_the_ends_of_a_range_are_accepted(name, value):
    assert getattr(SamplingParams(**{name: value}), name) == value


def test_a_single_stop_string_means_one():
    assert SamplingParams(stop="END").stop == ("END",)


def test_lists_and_none_become_tuples():
    params = SamplingParams(stop=None, bad_words=["x"], stop_token_ids=[1, 2], allowed_token_ids=[3])
    assert (params.stop, params.bad_words) == ((), ("x",))
    assert (params.stop_token_ids, params.allowed_token_ids) == ((1, 2), (3,))


def test_top_k_minus_one_is_off():
    assert SamplingParams(top_k=-1).top_k == 0


def test_logit_bias_keys_may_be_strings_as_in_json():
    assert SamplingParams(logit_bias={"42": 1}).logit_bias == {42: 1.0}


def test_min_tokens_cannot_pass_max_tokens():
    with pytest.raises(RequestError, match="min_tokens is 5; it must be at most max_tokens = 4"):
        SamplingParams(min_tokens=5, max_tokens=4)


def test_stop_strings_need_text():
    with pytest.raises(RequestError, match="detokenize"):
        SamplingParams(stop="x", detokenize=False)


def test_several_greedy_outputs_are_refused():
    with pytest.raises(RequestError, match="greedy"):
        SamplingParams(n=2, temperature=0)


def test_params_survive_json():
    params = SamplingParams(stop=["a"], logit_bias={1: 2.0}, structured_outputs={"regex": "a+"})
    assert msgspec.json.decode(msgspec.json.encode(params), type=SamplingParams) == params


def test_params_cannot_be_changed():
    with pytest.raises(AttributeError):
        SamplingParams().n = 2


def test_an_output_kind_may_be_its_name():
    assert SamplingParams(output_kind="delta").output_kind is OutputKind.DELTA


@pytest.mark.parametrize(
    "kind",
    [
        {"json": {"type": "object"}},
        {"json": json.dumps({"type": "object"})},
        {"regex": r"\d+"},
        {"choice": ["yes", "no"]},
        {"grammar": "root ::= 'a'"},
        {"json_object": True},
    ],
    ids=lambda kind: next(iter(kind)),
)
def test_one_kind_of_structure_is_accepted(kind):
    assert isinstance(SamplingParams(structured_outputs=kind).structured_outputs, StructuredOutputs)


@pytest.mark.parametrize(
    ("kind", "param"),
    [
        ({}, "structured_outputs"),
        ({"regex": "a", "choice": ["b"]}, "structured_outputs"),
        ({"json_object": False}, "structured_outputs"),
        ({"regex": "("}, "structured_outputs.regex"),
        ({"json": "{"}, "structured_outputs.json"),
        ({"json": "[1]"}, "structured_outputs.json"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"choice": ["a", ""]}, "structured_outputs.choice"),
        ({"grammar": " "}, "structured_outputs.grammar"),
    ],
)
def test_a_wrong_structure_is_refused(kind, param):
    with pytest.raises(RequestError) as caught:
        StructuredOutputs(**kind)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop_token_ids", (10,)), ("allowed_token_ids", (3, 99)), ("logit_bias", {10: 1.0})],
)
def test_token_ids_past_the_vocabulary_are_refused(name, value):
    with pytest.raises(RequestError, match=r"0 … 9") as caught:
        check_limits(SamplingParams(**{name: value}), vocab_size=10, max_logprobs=5)
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("count", "max_logprobs", "refused"), [(5, 5, False), (6, 5, True), (-1, 5, True), (-1, -1, False)]
)
def test_logprobs_are_limited_by_the_engine(count, max_logprobs, refused):
    params = SamplingParams(logprobs=count)
    if refused:
        with pytest.raises(RequestError, match="max_logprobs = 5"):
            check_limits(params, vocab_size=10, max_logprobs=max_logprobs)
    else:
        check_limits(params, vocab_size=10, max_logprobs=max_logprobs)
