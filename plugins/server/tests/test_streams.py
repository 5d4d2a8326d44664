"""Clients that leave, many at once, and what is counted. (A client leaves when its iterator of lines is dropped.)"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import local_engine, read_events, serving, slow

COMPLETIONS = "/v1/completions"
LONG = {"prompt": [5] * 40, "max_tokens": 2000, "ignore_eos": True}


@pytest.fixture(scope="module")
def slow_null():
    with serving(local_engine(**slow(5))) as running:
        yield running


def metric(running, name, **labels):
    """Return a metric's value, of those that have these labels."""
    for line in running.get("/metrics").text.splitlines():
        found = re.fullmatch(rf"{re.escape(name)}\{{(.*)\}} (\S+)", line)
        if found and all(f'{key}="{value}"' in found[1] for key, value in labels.items()):
            return float(found[2])
    raise AssertionError(f"there is no metric {name} with {labels}")


class TestLeaving:
    def test_a_stream_that_is_left_frees_its_blocks(self, slow_null):
        with slow_null.http as http, http.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            slow_null.wait_until(lambda stats: stats.num_running == 1 and stats.kv_usage > 0)
        slow_null.check_rest()

    def test_a_plain_request_that_is_left_frees_its_blocks(self, slow_null):
        with slow_null.http as http, pytest.raises(Exception, match="timed out"):
            http.post(COMPLETIONS, json=LONG, timeout=0.3)
        slow_null.check_rest()

    def test_all_prompts_of_a_batch_are_ended(self, slow_null):
        body = {**LONG, "prompt": [[5], [6], [7]], "n": 2, "stream": True}
        with slow_null.http as http, http.stream("POST", COMPLETIONS, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            slow_null.wait_until(lambda stats: stats.num_running == 6)
        slow_null.check_rest()

    def test_one_that_waits_in_the_queue_is_ended_too(self, slow_null):
        body = {**LONG, "stream": True}
        with slow_null.http as http, http.stream("POST", COMPLETIONS, json={**body, "n": 16}) as response:
            lines = response.iter_lines()
            next(lines)
            with slow_null.http as second, pytest.raises(Exception, match="timed out"):
                second.post(COMPLETIONS, json=body, timeout=0.3)
            slow_null.wait_until(lambda stats: stats.num_waiting == 0)
        slow_null.check_rest()

    def test_what_was_left_is_counted_as_aborted(self, slow_null):
        before = metric(slow_null, "vllm:request_success_total", finished_reason="abort")
        with slow_null.http as http, http.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
        slow_null.check_rest()
        assert metric(slow_null, "vllm:request_success_total", finished_reason="abort") == before + 1


def test_many_streams_at_once_are_not_mixed_up(null):
    """Null tokens depend on the seed and the position only, so each stream has an answer that is known alone."""

    def ask(seed):
        body = {"prompt": [5, 6, 7], "max_tokens": 24, "seed": seed, "temperature": 1, "ignore_eos": True}
        with null.http as http:
            plain = http.post(COMPLETIONS, json=body).json()["choices"][0]["text"]
            events = read_events(http.post(COMPLETIONS, json={**body, "stream": True}))
        return plain, "".join(event["choices"][0]["text"] for event in events)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(48)))
    assert all(plain == streamed for plain, streamed in answers)
    assert len({plain for plain, _ in answers}) == 48


def test_tokens_and_requests_are_counted(null):
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_count")
    before = [metric(null, name) for name in names]
    for stream in (False, True):
        body = {"prompt": [9] * 10, "max_tokens": 7, "ignore_eos": True, "stream": stream}
        assert null.post(COMPLETIONS, body).status_code == 200
    after = [metric(null, name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [20, 14, 2]


def test_what_runs_is_shown_while_it_runs(slow_null):
    with slow_null.http as http, http.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert metric(slow_null, "vllm:num_requests_running") == 1
        assert 0 < metric(slow_null, "vllm:kv_cache_usage_perc", model_name="demo") < 1
    slow_null.check_rest()


def test_usage_grows_with_the_stream_where_that_is_asked_for(null):
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": [5, 6], "max_tokens": 5, "ignore_eos": True, "stream": True, "stream_options": options}
    events = read_events(null.post(COMPLETIONS, body))
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts) and counts[-1] == 5 and events[-1]["choices"] == []


def test_the_engine_dies_and_everybody_is_told(monkeypatch):
    def fail(plan):
        raise RuntimeError("the device fell off")

    with serving(local_engine()) as running:
        assert running.get("/health").status_code == running.get("/ready").status_code == 200
        executor = running.frontend.client.llm.engine.executor
        monkeypatch.setattr(executor, "submit", fail)
        answer = running.post(COMPLETIONS, {"prompt": "a"})
        assert answer.status_code == 503 and "the device fell off" in answer.json()["error"]["message"]
        for path in ("/health", "/ready"):
            answer = running.get(path)
            assert answer.status_code == 503 and "the device fell off" in answer.json()["error"]["message"]
        assert running.get("/metrics").status_code == 200
        assert running.post(COMPLETIONS, {"prompt": "a"}).status_code == 503
