"""OpenAI's own client against the server: what it parses, what it raises."""

from __future__ import annotations

import math

import openai
import pytest
from openai import OpenAI


@pytest.fixture(scope="module")
def client(demo):
    with OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class TestCompletions:
    def test_greedy_text_is_the_same_twice_streamed_and_not(self, client):
        asked = {"model": "demo", "prompt": "import os\n", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**asked)
        chunks = list(client.completions.create(**asked, stream=True))
        assert whole.choices[0].text
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason

    def test_usage_counts_prompt_and_output(self, client):
        answer = client.completions.create(
            model="demo", prompt=[5, 6, 7], max_tokens=5, extra_body={"ignore_eos": True}
        )
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 5, 8)

    def test_a_repeated_prompt_is_counted_as_cached(self, client):
        prompt = list(range(10, 74))
        client.completions.create(model="demo", prompt=prompt, max_tokens=1)
        answer = client.completions.create(model="demo", prompt=prompt, max_tokens=1)
        assert answer.usage.prompt_tokens_details.cached_tokens >= 32

    def test_several_prompts_and_choices_come_in_order(self, client):
        prompts = ["import os", "def add(a, b):", "class"]
        alone = [client.completions.create(model="demo", prompt=p, max_tokens=4, temperature=0) for p in prompts]
        batch = client.completions.create(model="demo", prompt=prompts, max_tokens=4, temperature=0)
        assert [choice.index for choice in batch.choices] == [0, 1, 2]
        assert [choice.text for choice in batch.choices] == [answer.choices[0].text for answer in alone]

    def test_n_choices_of_two_prompts_are_numbered_through(self, client):
        answer = client.completions.create(model="demo", prompt=[[5], [6]], max_tokens=3, n=2, seed=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]

    def test_a_seed_gives_the_same_text_again(self, client):
        asked = {"model": "demo", "prompt": "import", "max_tokens": 8, "temperature": 1.0}
        texts = [client.completions.create(**asked, seed=seed).choices[0].text for seed in (3, 3, 4)]
        assert texts[0] == texts[1] != texts[2]

    def test_a_stop_string_ends_the_text_before_it(self, client):
        asked = {"model": "demo", "prompt": "import os\nimport", "max_tokens": 24, "temperature": 0}
        assert "\n" in client.completions.create(**asked).choices[0].text
        stopped = client.completions.create(**asked, stop="\n").choices[0]
        assert stopped.finish_reason == "stop" and "\n" not in stopped.text and stopped.stop_reason == "\n"

    def test_a_bias_forbids_a_token(self, client, demo):
        asked = {"model": "demo", "prompt": "import", "max_tokens": 1, "temperature": 0}
        first = client.completions.create(**asked).choices[0].text
        token_id = demo.frontend.tokenizer.encode(first, add_special_tokens=False)[0]
        assert client.completions.create(**asked, logit_bias={str(token_id): -100}).choices[0].text != first

    def test_logprobs_name_the_tokens_and_where_they_stand(self, client):
        choice = client.completions.create(
            model="demo", prompt="import os", max_tokens=5, temperature=0, logprobs=2, extra_body={"ignore_eos": True}
        ).choices[0]
        found = choice.logprobs
        assert "".join(found.tokens) == choice.text
        assert found.text_offset == [len("".join(found.tokens[:place])) for place in range(5)]
        assert all(value <= 0 for value in found.token_logprobs)
        assert all(max(top, key=top.get) == token for top, token in zip(found.top_logprobs, found.tokens, strict=True))

    def test_streamed_logprobs_join_to_the_whole(self, client):
        asked = {"model": "demo", "prompt": "import os", "max_tokens": 5, "temperature": 0, "logprobs": 1}
        whole = client.completions.create(**asked).choices[0].logprobs
        parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)]
        assert sum((part.tokens for part in parts), []) == whole.tokens
        assert sum((part.text_offset for part in parts), []) == whole.text_offset

    def test_echo_repeats_the_prompt_with_its_logprobs(self, client):
        choice = client.completions.create(
            model="demo", prompt="import os", max_tokens=2, temperature=0, logprobs=1, echo=True
        ).choices[0]
        assert choice.text.startswith("import os")
        assert choice.logprobs.token_logprobs[0] is None
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) > 3

    def test_echo_without_new_tokens_scores_the_prompt(self, client):
        answer = client.completions.create(model="demo", prompt="import os", max_tokens=0, logprobs=0, echo=True)
        choice = answer.choices[0]
        assert choice.text == "import os" and answer.usage.completion_tokens == 0
        assert len(choice.logprobs.tokens) == answer.usage.prompt_tokens

    def test_usage_comes_last_in_a_stream_that_wants_it(self, client):
        chunks = list(
            client.completions.create(
                model="demo", prompt="a", max_tokens=3, stream=True, stream_options={"include_usage": True}
            )
        )
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens <= 3
        assert all(chunk.usage is None for chunk in chunks[:-1])


class TestChat:
    asked = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}

    def test_an_answer_streamed_is_the_answer(self, client):
        whole = client.chat.completions.create(**self.asked).choices[0]
        chunks = list(client.chat.completions.create(**self.asked, stream=True))
        assert whole.message.role == "assistant" and whole.message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content

    def test_content_parts_are_one_text(self, client):
        parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
        asked = {**self.asked, "messages": [{"role": "user", "content": parts}]}
        assert (
            client.chat.completions.create(**asked).choices[0].message.content
            == client.chat.completions.create(**self.asked).choices[0].message.content
        )

    def test_logprobs_hold_the_bytes_and_the_best(self, client):
        choice = client.chat.completions.create(**self.asked, logprobs=True, top_logprobs=2).choices[0]
        entries = choice.logprobs.content
        assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content
        for entry in entries:
            assert len(entry.top_logprobs) == 2
            assert math.isclose(entry.logprob, entry.top_logprobs[0].logprob)

    def test_without_a_limit_the_context_is_the_limit(self, client, demo):
        asked = {**self.asked, "max_tokens": None, "extra_body": {"ignore_eos": True, "stop": [" "]}}
        assert client.chat.completions.create(**asked).choices[0].finish_reason == "stop"

    def test_sampled_choices_stream_side_by_side(self, client):
        asked = {**self.asked, "temperature": 1.0, "n": 3, "seed": 5}
        whole = client.chat.completions.create(**asked)
        texts = ["", "", ""]
        for chunk in client.chat.completions.create(**asked, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [choice.message.content for choice in whole.choices]

    def test_a_template_of_the_request_is_used(self, client, demo):
        template = "{{ messages[0].content }}"
        answer = client.chat.completions.create(**self.asked, extra_body={"chat_template": template})
        assert answer.usage.prompt_tokens == len(demo.frontend.tokenizer.encode("hello", add_special_tokens=False))

    def test_what_a_template_refuses_is_told(self, client):
        with pytest.raises(openai.BadRequestError, match="not like this") as caught:
            template = "{{ raise_exception('not like this') }}"
            client.chat.completions.create(**self.asked, extra_body={"chat_template": template})
        assert caught.value.param == "messages"


class TestOtherRoutes:
    def test_the_model_is_listed(self, client):
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").id == "demo"

    def test_embeddings_have_length_one_in_either_encoding(self, client):
        packed = client.embeddings.create(model="demo", input=["hello", "other"])
        plain = client.embeddings.create(model="demo", input=["hello", "other"], encoding_format="float")
        assert len(packed.data) == 2 and packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
        assert math.isclose(sum(x * x for x in plain.data[1].embedding), 1, rel_tol=1e-4)

    def test_raw_embeddings_point_the_same_way(self, client):
        asked = {"model": "demo", "input": "hello", "encoding_format": "float"}
        unit = client.embeddings.create(**asked).data[0].embedding
        raw = client.embeddings.create(**asked, extra_body={"normalize": False}).data[0].embedding
        length = math.sqrt(sum(x * x for x in raw))
        assert length > 1.5 and [x / length for x in raw] == pytest.approx(unit, abs=1e-3)

    def test_the_score_is_the_sum_of_the_echoed_logprobs(self, client, demo):
        answer = demo.post("/score", {"text_1": "import os\nimport", "text_2": [" sys", " banana"]}).json()
        echoed = client.completions.create(
            model="demo", prompt="import os\nimport sys", max_tokens=0, logprobs=0, echo=True
        ).choices[0]
        first = answer["data"][0]
        expected = sum(echoed.logprobs.token_logprobs[-first["num_tokens"] :])
        assert first["score"] == pytest.approx(expected, abs=1e-3) and first["score"] > answer["data"][1]["score"]

    def test_tokens_there_and_back(self, demo):
        found = demo.post("/tokenize", {"prompt": "naïve 😀", "add_special_tokens": False}).json()
        assert found["count"] == len(found["tokens"]) and found["max_model_len"] == 2048
        assert demo.post("/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": "naïve 😀"}

    def test_a_conversation_is_tokenized_as_the_chat_route_does(self, client, demo):
        messages = TestChat.asked["messages"]
        count = demo.post("/tokenize", {"messages": messages}).json()["count"]
        assert client.chat.completions.create(**TestChat.asked).usage.prompt_tokens == count


class TestErrors:
    def test_a_bad_value_names_its_field(self, client):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="demo", prompt="a", temperature=-1)
        assert caught.value.param == "temperature" and caught.value.code == "invalid_value"

    def test_an_unknown_model_is_not_found(self, client):
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model="gpt-4", prompt="a")
        assert caught.value.code == "model_not_found" and "demo" in str(caught.value)

    def test_the_request_id_is_the_clients_own(self, client):
        answer = client.completions.with_raw_response.create(
            model="demo", prompt="a", max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
        )
        assert answer.headers["x-request-id"] == "mine-1" and answer.parse().id == "cmpl-mine-1"


def test_a_text_to_embed_is_cut_to_its_end_where_that_is_asked_for(client):
    def embed(ids, most=None):
        extra = {} if most is None else {"extra_body": {"truncate_prompt_tokens": most}}
        return client.embeddings.create(model="demo", input=[ids], **extra).data[0].embedding

    assert embed([5, 6, 7, 8], 2) == embed([7, 8])
    assert embed([5, 6], 7) == embed([5, 6]) == embed([5, 6], -1)
    assert embed([9] * 2500, -1) == embed([9] * 2047)
    with pytest.raises(openai.BadRequestError):
        embed([9] * 2500)
