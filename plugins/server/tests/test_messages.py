"""/v1/messages with Anthropic's own client."""

from __future__ import annotations

import anthropic
import pytest
from anthropic import Anthropic

from .harness import local_engine, serving

ASKED = {
    "model": "demo",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "hello"}],
    "extra_body": {"temperature": 0},
}


@pytest.fixture(scope="module")
def client(demo):
    with Anthropic(base_url=demo.url, api_key="none", max_retries=0) as client:
        yield client


def test_the_text_is_that_of_a_chat(client, demo):
    answer = client.messages.create(**ASKED)
    body = {"messages": ASKED["messages"], "max_tokens": 8, "temperature": 0}
    assert answer.content[0].text == demo.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]


def test_a_stream_builds_the_same_message(client):
    whole = client.messages.create(**ASKED)
    with client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens


def test_tokens_are_counted_with_the_system_text(client):
    plain = client.messages.count_tokens(model="demo", messages=ASKED["messages"]).input_tokens
    answer = client.messages.create(**ASKED, system=[{"type": "text", "text": "be brief"}])
    counted = client.messages.count_tokens(model="demo", messages=ASKED["messages"], system="be brief").input_tokens
    assert counted > plain
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted


def test_reasons_to_stop_have_their_names(client):
    assert client.messages.create(**{**ASKED, "max_tokens": 1}).stop_reason == "max_tokens"
    text = client.messages.create(**ASKED).content[0].text
    stopped = client.messages.create(**ASKED, stop_sequences=[text[2:4]])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", text[2:4])
    assert stopped.content[0].text == text[: text.index(text[2:4])]


def test_the_assistants_last_words_are_gone_on_from(client):
    turns = [*ASKED["messages"], {"role": "assistant", "content": "Hel"}]
    answer = client.messages.create(**{**ASKED, "messages": turns})
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0 and answer.content[0].text


def test_errors_are_in_their_shape(client):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{**ASKED, "extra_body": {"temperature": -1}})
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**ASKED, "model": "other"})
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="tools"):
        client.messages.create(**ASKED, tools=[{"name": "a", "input_schema": {"type": "object"}}])


def test_its_key_header_opens():
    with serving(local_engine(), api_keys=("secret",)) as running:
        for key, error in (("secret", None), ("other", anthropic.AuthenticationError)):
            with Anthropic(base_url=running.url, api_key=key, max_retries=0) as client:
                if error is None:
                    assert client.messages.create(**ASKED).role == "assistant"
                else:
                    with pytest.raises(error):
                        client.messages.create(**ASKED)
