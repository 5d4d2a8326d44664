"""What cannot be served is refused at the door, with the field, the value and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quire.engine import Engine
from quire.errors import QueueFullError, RequestError
from quire.outputs import RequestOutput
from quire.plan import NewRow
from quire.sampling import OutputKind, SamplingParams, StructuredOutputs
from quire.text.tokenizer import Tokenizer

Open = Callable[..., Engine]

FINAL = OutputKind.FINAL_ONLY


def count_up(seat: NewRow, index: int) -> int:
    return 10 + index


def run(engine: Engine) -> list[RequestOutput]:
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    engine.check_integrity()
    return outputs


def complete(engine: Engine, prompt: Any = (5, 6, 7), **params: Any) -> RequestOutput:
    engine.add("r", prompt, SamplingParams(output_kind=FINAL, **params))
    [output] = run(engine)
    return output


class TestIntake:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ([], "the prompt is empty"),
            ([5, 400], r"token id 400; the model's are 0 … 399"),
            ([-1], "token id -1"),
            ([1.5], "does not hold token ids"),
            ([5, 2**40], "token id 1099511627776; the model's are"),
            ([5, 2**70], "does not hold token ids"),
            (["a"], "does not hold token ids"),
            (7, "does not hold token ids"),
            (b"fox", "the prompt is a bytes that does not hold token ids"),
            ({"text": "fox"}, r"a prompt with the keys \['text'\]; keys are"),
            ({"cache_salt": "x"}, "a prompt with the keys"),
            (list(range(100)), r"the prompt has 100 tokens; max_model_len is 100"),
        ],
    )
    def test_prompts_that_cannot_be_served_are_refused(self, open_scripted: Open, prompt: Any, message: str) -> None:
        with pytest.raises(RequestError, match=message) as caught:
            open_scripted(count_up).add("r", prompt, SamplingParams())
        assert caught.value.param == "prompt"

    @pytest.mark.parametrize("prompt", ["fox", {"prompt": "fox"}, {"prompt_token_ids": (5, 6)}, range(5, 9)])
    def test_every_kind_of_prompt_is_served(self, open_scripted: Open, prompt: Any) -> None:
        assert complete(open_scripted(count_up), prompt, max_tokens=1).finished

    def test_too_many_tokens_name_both_numbers(self, open_scripted: Open) -> None:
        message = r"90 tokens and max_tokens is 11, together 101; max_model_len is 100; lower max_tokens to 10"
        with pytest.raises(RequestError, match=message):
            complete(open_scripted(count_up), [5] * 90, max_tokens=11)

    def test_max_tokens_none_takes_all_that_is_left(self, open_scripted: Open) -> None:
        assert len(complete(open_scripted(count_up), [5] * 90, max_tokens=None).outputs[0].token_ids) == 10

    @pytest.mark.parametrize(
        ("params", "param"),
        [
            ({"logprobs": 21}, "logprobs"),
            ({"prompt_logprobs": -1}, "prompt_logprobs"),
            ({"stop_token_ids": [400]}, "stop_token_ids"),
            ({"allowed_token_ids": [5, 400]}, "allowed_token_ids"),
            ({"logit_bias": {400: 1.0}}, "logit_bias"),
            ({"structured_outputs": StructuredOutputs(regex="a+")}, "structured_outputs"),
        ],
    )
    def test_params_that_cannot_be_served_are_refused(
        self, open_scripted: Open, params: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(RequestError) as caught:
            complete(open_scripted(count_up), **params)
        assert caught.value.param == param

    @pytest.mark.parametrize(("prompt", "params"), [("fox", {}), ([5], {"stop": "x"}), ([5], {"bad_words": ["x"]})])
    def test_what_needs_a_tokenizer_is_refused_without_one(
        self, open_scripted: Open, prompt: Any, params: dict[str, Any]
    ) -> None:
        with pytest.raises(RequestError, match="needs a tokenizer.*tokenizer=FOLDER_OR_NAME"):
            complete(open_scripted(count_up, with_tokenizer=False), prompt, **params)

    def test_the_backends_reasons_are_told(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        picky = Engine(engine.executor, engine.facts, engine.config, validate=lambda params: ["no min_p", "no top_k"])
        with pytest.raises(RequestError, match="the backend cannot serve this request: no min_p; no top_k"):
            complete(picky)

    def test_an_id_in_use_is_refused(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        engine.add("r", [5])
        with pytest.raises(RequestError, match="request id 'r' is in use"):
            engine.add("r", [6])

    def test_a_full_queue_refuses_all_completions_of_a_request(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up, max_queued_requests=3)
        engine.add("a", [5], SamplingParams(n=2, output_kind=FINAL))
        with pytest.raises(QueueFullError):
            engine.add("b", [5], SamplingParams(n=2, output_kind=FINAL))
        assert engine.scheduler.num_waiting == 2
        assert [output.request_id for output in run(engine)] == ["a"]

    def test_bad_words_reach_the_executor_as_token_ids(self, open_scripted: Open, tokenizer: Tokenizer) -> None:
        seen: list[NewRow] = []
        engine = open_scripted(lambda seat, index: seen.append(seat) or 50)  # type: ignore[func-returns-value]
        complete(engine, max_tokens=1, bad_words=["fox", " dog"])
        words = {tuple(tokenizer.encode(text)) for text in ("fox", " fox", "dog", " dog")}
        assert set(seen[0].bad_word_ids) == words
        assert seen[0].eos_token_ids == (1,)

    def test_requests_of_different_salts_share_no_cache(self, open_scripted: Open) -> None:
        engine, ids = open_scripted(count_up), list(range(10, 30))
        complete(engine, {"prompt_token_ids": ids, "cache_salt": "a"})
        assert complete(engine, {"prompt_token_ids": ids, "cache_salt": "b"}).num_cached_tokens == 0
        assert complete(engine, {"prompt_token_ids": ids, "cache_salt": "a"}).num_cached_tokens > 0
