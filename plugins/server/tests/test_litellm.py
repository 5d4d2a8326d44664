"""litellm's client, unmodified, against the server. Needs `litellm`: `nox -s clients`."""

from __future__ import annotations

import pytest

from .busy import PATIENT_S, seconds_when_busy, small_queue

litellm = pytest.importorskip("litellm", reason="litellm is not installed: nox -s clients", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("default")  # the client's own

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def asked(demo):
    return {"api_base": f"{demo.url}/v1", "api_key": "none", "temperature": 0, "max_tokens": 6, "num_retries": 0}


def test_a_chat_streamed_is_the_chat(asked):
    whole = litellm.completion(model="openai/demo", messages=HELLO, **asked)
    parts = litellm.completion(model="openai/demo", messages=HELLO, stream=True, **asked)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == whole.choices[0].message.content != ""
    assert whole.usage.completion_tokens <= 6


def test_a_completion_streamed_is_the_completion(asked):
    model = "text-completion-openai/demo"
    whole = litellm.text_completion(model=model, prompt="import os\n", **asked)
    parts = litellm.text_completion(model=model, prompt="import os\n", stream=True, **asked)
    assert "".join(part.choices[0].text or "" for part in parts) == whole.choices[0].text != ""


def test_logprobs_come_with_the_tokens(asked):
    answer = litellm.completion(model="openai/demo", messages=HELLO, logprobs=True, top_logprobs=2, **asked)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


def test_embeddings_have_length_one(asked):
    where = {name: asked[name] for name in ("api_base", "api_key")}
    answer = litellm.embedding(model="openai/demo", input=["hello", "other"], encoding_format="float", **where)
    assert [sum(x * x for x in item["embedding"]) for item in answer.data] == pytest.approx([1, 1], rel=1e-3)


def test_anthropics_route_is_spoken_too(demo):
    answer = litellm.completion(
        model="anthropic/demo", messages=HELLO, max_tokens=6, api_base=demo.url, api_key="none", num_retries=0
    )
    assert answer.choices[0].message.content


def test_errors_are_of_its_own_kinds(asked):
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(model="openai/demo", messages=HELLO, **{**asked, "temperature": -1})
    with pytest.raises(litellm.NotFoundError, match="gpt-4"):
        litellm.completion(model="openai/gpt-4", messages=HELLO, **asked)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model="openai/demo", messages=[{"role": "user", "content": "x " * 5000}], **asked)


def test_a_full_queue_is_waited_for():
    with small_queue() as running:
        where = {"api_base": f"{running.url}/v1", "api_key": "none", "max_tokens": 2}

        def ask():
            assert litellm.completion(model="openai/demo", messages=HELLO, max_retries=2, **where).choices

        assert seconds_when_busy(running, ask) >= PATIENT_S
