"""--stream-interval: how many tokens of a stream are told at once."""

from __future__ import annotations

import pytest

from quire.outputs import CompletionOutput, RequestMetrics, RequestOutput
from quire_server.pacing import Pace

from .harness import local_engine, read_events, remote_engine, serving

BODY = {"prompt": [5, 6], "max_tokens": 23, "seed": 1, "temperature": 1, "ignore_eos": True}


def output(*token_ids, index=0, reason=None, finished=False):
    text = "".join(f" {token_id}" for token_id in token_ids)
    return RequestOutput(
        request_id="a",
        prompt=None,
        prompt_token_ids=[],
        outputs=[CompletionOutput(index=index, text=text, token_ids=list(token_ids), finish_reason=reason)],
        finished=finished,
        metrics=RequestMetrics(arrival_time=0.0),
    )


def told(interval, *news):
    """Return the token ids of what a pace lets through, by completion."""
    pace = Pace(interval)
    found = [pace.add(each) for each in news]
    return [{item.index: item.token_ids for item in each.outputs} for each in found if each is not None]


def test_every_token_is_told_by_default():
    assert told(1, *[output(token_id) for token_id in range(3)]) == [{0: [0]}, {0: [1]}, {0: [2]}]


def test_the_first_is_told_at_once_and_later_ones_joined():
    assert told(3, *[output(token_id) for token_id in range(8)]) == [{0: [0]}, {0: [1, 2, 3]}, {0: [4, 5, 6]}]


def test_the_end_brings_what_was_held():
    news = [output(0), output(1), output(2, reason="stop", finished=True)]
    assert told(9, *news) == [{0: [0]}, {0: [1, 2]}]


def test_the_end_of_one_completion_is_told_though_another_goes_on():
    news = [output(0), output(1, index=1), output(2, reason="stop"), output(3, index=1)]
    assert told(9, *news) == [{0: [0]}, {0: [2], 1: [1]}]


@pytest.mark.parametrize("opening", [local_engine, remote_engine])
def test_a_server_keeps_the_pace_in_either_process(opening):
    with serving(opening(stream_interval=4)) as running:
        whole = running.post("/v1/completions", BODY).json()["choices"][0]["text"]
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = read_events(running.post("/v1/completions", {**BODY, "stream": True, "stream_options": options}))
    counts = [event["usage"]["completion_tokens"] for event in events[:-1]]
    gaps = [later - earlier for earlier, later in zip(counts, counts[1:], strict=False)]
    assert counts[-1] == 23 and all(gap >= 4 for gap in gaps[:-1]), counts
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == whole
