"""/v1/responses with OpenAI's own client: whole, streamed, fetched, gone on from, in the background."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI

from .harness import local_engine, serving, slow

ASKED = {"model": "demo", "input": "hello", "max_output_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def client(demo):
    with OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def slow_client():
    with (
        serving(local_engine(**slow(10))) as running,
        OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
        running.check_rest()


def test_the_text_is_that_of_a_chat(client):
    answer = client.responses.create(**ASKED)
    chat = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "hello"}], max_tokens=8, temperature=0
    )
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == chat.usage.completion_tokens


def test_a_stream_tells_the_same_in_order(client):
    whole = client.responses.create(**ASKED)
    events = list(client.responses.create(**ASKED, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == f"response.{whole.status}"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text


def test_an_answer_cut_short_says_so(client):
    answer = client.responses.create(**{**ASKED, "max_output_tokens": 1})
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"


def test_an_answer_can_be_fetched_unless_it_was_not_to_be_kept(client):
    kept, gone = client.responses.create(**ASKED), client.responses.create(**ASKED, store=False)
    assert client.responses.retrieve(kept.id).output_text == kept.output_text
    with pytest.raises(openai.NotFoundError, match="no response"):
        client.responses.retrieve(gone.id)


def test_a_conversation_goes_on_from_an_answer(client):
    first = client.responses.create(**ASKED, instructions="be brief")
    second = client.responses.create(**{**ASKED, "input": "more"}, previous_response_id=first.id)
    told = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": [{"type": "input_text", "text": "more"}]},
    ]
    whole = client.responses.create(**{**ASKED, "input": told})
    assert second.output_text == whole.output_text and second.usage.input_tokens == whole.usage.input_tokens


def test_in_the_background_it_can_be_watched_and_cancelled(slow_client):
    asked = {"model": "demo", "input": "hello", "max_output_tokens": 1500, "background": True}
    answer = slow_client.responses.create(**asked)
    assert answer.status == "queued"
    cancelled = slow_client.responses.cancel(answer.id)
    assert cancelled.status == slow_client.responses.retrieve(answer.id).status == "cancelled"


def test_in_the_background_it_comes_to_its_end(client):
    answer = client.responses.create(**ASKED, background=True)
    while client.responses.retrieve(answer.id).status in ("queued", "in_progress"):
        pass
    assert client.responses.retrieve(answer.id).output_text == client.responses.create(**ASKED).output_text


def test_an_answer_is_streamed_again_from_any_of_its_events_on(client):
    events = list(client.responses.create(**ASKED, stream=True))
    kept = events[-1].response.id
    for number in (0, 3, 4, len(events) - 5, len(events) - 1):
        assert list(client.responses.retrieve(kept, stream=True, starting_after=number)) == events[number + 1 :]
    assert list(client.responses.retrieve(kept, stream=True)) == events


def test_in_the_background_it_can_be_followed_while_it_is_written_by_several(slow_client):
    asked = {"model": "demo", "input": "hello", "max_output_tokens": 40, "background": True}
    first = slow_client.responses.create(**asked, stream=True)
    begun = [next(first) for _ in range(6)]
    response_id = begun[0].response.id
    assert slow_client.responses.retrieve(response_id).status == "in_progress"
    again = list(slow_client.responses.retrieve(response_id, stream=True, starting_after=2))
    assert [*begun[:3], *again] == [*begun, *first]
    assert again[-1].response.output_text == slow_client.responses.retrieve(response_id).output_text


def test_who_leaves_a_stream_of_the_background_does_not_end_it(slow_client):
    asked = {"model": "demo", "input": "hello", "max_output_tokens": 30, "background": True}
    with slow_client.responses.create(**asked, stream=True) as stream:
        response_id = next(stream).response.id
    events = list(slow_client.responses.retrieve(response_id, stream=True))
    assert events[-1].response.usage.output_tokens == 30


def test_a_stream_of_the_background_ends_when_it_is_cancelled(slow_client):
    asked = {"model": "demo", "input": "hello", "max_output_tokens": 1500, "background": True}
    stream = slow_client.responses.create(**asked, stream=True)
    begun = [next(stream) for _ in range(6)]
    slow_client.responses.cancel(begun[0].response.id)
    assert all(event.type == "response.output_text.delta" for event in stream)


def test_a_place_to_start_without_a_stream_is_refused(client):
    kept = client.responses.create(**ASKED)
    with pytest.raises(openai.BadRequestError, match="stream is not true"):
        client.responses.retrieve(kept.id, extra_query={"starting_after": 3})


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input"),
        ({"input": []}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"max_output_tokens": 5000}, "max_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused(client, changed, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{**ASKED, **changed})
    assert caught.value.param == param
