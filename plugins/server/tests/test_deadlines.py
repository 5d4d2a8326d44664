"""Requests that take too long: their clients are told, and their blocks are free within a step."""

from __future__ import annotations

import json
import time

import pytest

from .harness import local_engine, read_events, serving, slow

COMPLETIONS = "/v1/completions"
LONG = {"prompt": [5] * 40, "max_tokens": 2000, "ignore_eos": True}
STEP_MS = 10


@pytest.fixture(scope="module")
def paced():
    with serving(local_engine(**slow(STEP_MS))) as running:
        yield running
        running.check_rest()


def test_a_plain_request_is_answered_408_in_time_and_its_blocks_are_free(paced):
    started = time.monotonic()
    answer = paced.post(COMPLETIONS, {**LONG, "timeout": 0.3})
    assert 0.3 <= time.monotonic() - started < 1.5
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (408, "request_timeout", "timeout_error")
    assert "0.3 s" in error["message"] and answer.headers["x-should-retry"] == "false"
    stats = paced.do(paced.frontend.client.stats())  # is answered between two steps, the next of which frees rows
    assert stats.num_running == 0 and stats.kv_usage == 0


def test_a_stream_ends_with_an_error_event(paced):
    events = read_events(paced.post(COMPLETIONS, {**LONG, "stream": True, "timeout": 0.3}))
    assert len(events) > 5 and events[-1]["error"]["code"] == "request_timeout"
    assert all("error" not in event for event in events[:-1])
    assert paced.do(paced.frontend.client.stats()).kv_usage == 0


def test_a_header_says_it_too_and_the_least_counts(paced):
    header = {"X-Request-Timeout": "0.2"}
    for body in (LONG, {**LONG, "timeout": 30}):
        assert "0.2 s" in paced.post(COMPLETIONS, body, headers=header).json()["error"]["message"]
    assert "0.1 s" in paced.post(COMPLETIONS, {**LONG, "timeout": 0.1}, headers=header).json()["error"]["message"]


def test_one_that_ends_in_time_is_not_disturbed(paced):
    body = {**LONG, "max_tokens": 5, "timeout": 30}
    assert paced.post(COMPLETIONS, body).json()["usage"]["completion_tokens"] == 5
    assert "error" not in read_events(paced.post(COMPLETIONS, {**body, "stream": True}))[-1]


def test_waiting_in_the_queue_counts(paced):
    body = {**LONG, "n": 16, "stream": True}
    with paced.http as http, http.stream("POST", COMPLETIONS, json=body) as response:
        next(response.iter_lines())
        assert paced.post(COMPLETIONS, {**LONG, "timeout": 0.2}).status_code == 408
        assert paced.do(paced.frontend.client.stats()).num_waiting == 0
    paced.check_rest()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1500}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1500, "model": "demo"}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 1500}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_route_that_generates_has_it(paced, path, body, stream):
    answer = paced.post(path, {**body, "stream": stream, "timeout": 0.1})
    assert answer.status_code == (200 if stream else 408)
    assert "did not end within 0.1 s" in answer.text


def test_in_the_background_it_is_a_failure(paced):
    body = {"input": "a", "max_output_tokens": 1500, "background": True, "timeout": 0.1}
    response_id = paced.post("/v1/responses", body).json()["id"]
    while (answer := paced.get(f"/v1/responses/{response_id}").json())["status"] in ("queued", "in_progress"):
        time.sleep(0.01)
    assert answer["status"] == "failed" and "0.1 s" in answer["error"]["message"]


@pytest.mark.parametrize("timeout", [0, -1, "5", True, 1e999])
def test_a_timeout_that_is_none_is_refused(paced, timeout):
    body = json.dumps({**LONG, "timeout": timeout}).replace("Infinity", "1e999")
    with paced.http as http:
        answer = http.post(COMPLETIONS, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "timeout" in answer.json()["error"]["message"]


@pytest.mark.parametrize("header", ["x", "0", "nan", "inf", "-1"])
def test_a_header_that_is_no_time_is_refused(paced, header):
    answer = paced.post(COMPLETIONS, LONG, headers={"X-Request-Timeout": header})
    assert answer.status_code == 400 and "x-request-timeout" in answer.json()["error"]["message"]


def test_the_operators_limit_holds_for_all():
    with serving(local_engine(**slow(STEP_MS)), request_timeout_s=0.2) as running:
        for body in (LONG, {**LONG, "timeout": 30}):
            assert "0.2 s" in running.post(COMPLETIONS, body).json()["error"]["message"]
        running.check_rest()
