"""A full queue is answered 429 with Retry-After, and OpenAI's and Anthropic's clients wait so long and try again."""

from __future__ import annotations

import pytest
from anthropic import Anthropic
from openai import OpenAI, RateLimitError

from .busy import PATIENT_S, RETRY_AFTER_S, seconds_when_busy, small_queue

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def full():
    with small_queue() as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_waits_as_told_and_is_served(full, stream):
    def ask():
        with OpenAI(base_url=f"{full.url}/v1", api_key="none") as client:
            answer = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=2, stream=stream)
            assert list(answer) if stream else answer.choices

    assert seconds_when_busy(full, ask) >= PATIENT_S


def test_anthropics_client_waits_as_told_and_is_served(full):
    def ask():
        with Anthropic(base_url=full.url, api_key="none") as client:
            assert client.messages.create(model="demo", messages=HELLO, max_tokens=2).content is not None

    assert seconds_when_busy(full, ask) >= PATIENT_S


def test_without_retries_the_client_is_told_when_to_come_back(full):
    def ask():
        with OpenAI(base_url=f"{full.url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(RateLimitError) as caught:
                client.completions.create(model="demo", prompt="a")
            assert caught.value.code == "queue_full"
            assert caught.value.response.headers["retry-after"] == str(RETRY_AFTER_S)

    seconds_when_busy(full, ask)
