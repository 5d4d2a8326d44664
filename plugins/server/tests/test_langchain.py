"""langchain-openai, unmodified, against the server. Needs `langchain-openai`: `nox -s clients`."""

from __future__ import annotations

import asyncio

import openai
import pytest

from .busy import PATIENT_S, seconds_when_busy, small_queue

langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed: nox -s clients")
pytestmark = pytest.mark.filterwarnings("default")  # the client's own


@pytest.fixture(scope="module")
def where(demo):
    return {"base_url": f"{demo.url}/v1", "api_key": "none", "model": "demo", "max_retries": 0}


@pytest.fixture(scope="module")
def chat(where):
    return langchain.ChatOpenAI(temperature=0, max_tokens=6, **where)


def test_a_chat_streamed_is_the_chat(chat):
    whole = chat.invoke([("system", "be brief"), ("human", "hello")])
    assert "".join(part.content for part in chat.stream([("system", "be brief"), ("human", "hello")])) == whole.content
    assert whole.content and whole.usage_metadata["output_tokens"] <= 6


def test_a_batch_is_answered_in_order(chat):
    asked = ["hello", "import os", "one two three"]
    assert [item.content for item in chat.batch(asked)] == [chat.invoke(text).content for text in asked]


def test_the_async_client_streams_the_same(chat):
    async def read():
        return "".join([part.content async for part in chat.astream("hello")])

    assert asyncio.run(read()) == chat.invoke("hello").content


def test_logprobs_come_with_the_tokens(where):
    chat = langchain.ChatOpenAI(temperature=0, max_tokens=6, logprobs=True, top_logprobs=2, **where)
    answer = chat.invoke("hello")
    entries = answer.response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == answer.content
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def test_a_completion_streamed_is_the_completion(where):
    model = langchain.OpenAI(temperature=0, max_tokens=6, **where)
    assert "".join(model.stream("import os\n")) == model.invoke("import os\n") != ""


def test_the_responses_route_is_spoken_too(where):
    chat = langchain.ChatOpenAI(temperature=0, max_tokens=6, use_responses_api=True, **where)
    answer = chat.invoke("hello")
    assert answer.text and "".join(part.text for part in chat.stream("hello")) == answer.text


def test_embeddings_have_length_one(where):
    texts = ["hello", "other"]
    plain = langchain.OpenAIEmbeddings(check_embedding_ctx_length=False, **where).embed_documents(texts)
    assert [sum(x * x for x in vector) for vector in plain] == pytest.approx([1, 1], rel=1e-3)


def test_errors_are_openais(where):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        langchain.ChatOpenAI(temperature=-1, **where).invoke("hello")
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        langchain.ChatOpenAI(**{**where, "model": "gpt-4"}).invoke("hello")


def test_a_full_queue_is_waited_for():
    with small_queue() as running:
        chat = langchain.ChatOpenAI(base_url=f"{running.url}/v1", api_key="none", model="demo", max_tokens=2)
        assert seconds_when_busy(running, lambda: chat.invoke("hello")) >= PATIENT_S
