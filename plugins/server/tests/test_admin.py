"""/admin: pausing, sleeping, waking, forgetting, and what it refuses; seen from the API beside it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import local_engine, remote_engine, serving, slow

COMPLETIONS = "/v1/completions"
ADMIN = {"Authorization": "Bearer admin"}
LONG = {"prompt": [5] * 40, "max_tokens": 1500, "ignore_eos": True, "stream": True}
SHORT = {"prompt": [5] * 40, "max_tokens": 2, "ignore_eos": True}


def operate(running, path, **options):
    return running.post(f"/admin/{path}", headers=ADMIN, **options)


def state(running):
    return running.get("/admin/state", headers=ADMIN).json()["state"]


@pytest.fixture(scope="module", params=["thread", "process"])
def paced(request):
    """An engine that takes its time, in this process or in another."""
    opening = local_engine if request.param == "thread" else remote_engine
    with serving(opening(**slow(5)), admin_keys=("admin",)) as running:
        yield running
        running.check_rest()


@pytest.fixture(scope="module")
def sleeper():
    pytest.importorskip("quire_cpu_x86")
    with serving(local_engine("cpu-x86"), admin_keys=("admin",)) as running:
        yield running
        running.check_rest()


def test_a_paused_engine_keeps_its_streams_and_goes_on_where_it_was(paced):
    body = {**LONG, "max_tokens": 300, "stream_options": {"include_usage": True}}
    with paced.http as http, http.stream("POST", COMPLETIONS, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        assert operate(paced, "pause").json() == {"state": "paused", "num_requests": 1, "given_back_bytes": 0}
        time.sleep(0.1)  # what was under way comes out
        before = paced.do(paced.frontend.client.stats())
        time.sleep(0.1)
        after = paced.do(paced.frontend.client.stats())
        assert after.num_steps == before.num_steps and after.num_running == 1
        assert operate(paced, "resume").json()["state"] == "serving"
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(rest[-2])["usage"]["completion_tokens"] == 300 and rest[-1] == "[DONE]"


def test_requests_that_come_during_a_pause_wait_for_its_end(paced):
    operate(paced, "pause")
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(paced.post, COMPLETIONS, SHORT)
        paced.wait_until(lambda stats: stats.num_waiting == 1)
        assert paced.get("/ready").status_code == 200
        operate(paced, "resume")
        assert coming.result(20).status_code == 200


def test_a_client_that_leaves_during_a_pause_frees_its_blocks(paced):
    with paced.http as http, http.stream("POST", COMPLETIONS, json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        operate(paced, "pause")
    paced.wait_until(lambda stats: stats.num_running == 0 and stats.kv_usage == 0)
    operate(paced, "resume")


def test_the_prefix_cache_is_forgotten(paced):
    def cached():
        return paced.post(COMPLETIONS, {**SHORT, "prompt": [6] * 40}).json()["usage"]["prompt_tokens_details"][
            "cached_tokens"
        ]

    assert [cached(), cached()] == [0, 32]
    assert operate(paced, "cache/reset").json()["num_blocks"] >= 2
    assert cached() == 0


def test_what_the_backend_cannot_do_is_refused_with_the_reason(paced):
    answer = operate(paced, "sleep")
    assert answer.status_code == 400 and "cannot give its memory back" in answer.json()["error"]["message"]
    assert state(paced) == "serving" and paced.post(COMPLETIONS, SHORT).status_code == 200
    error = operate(paced, "loras", body={"name": "a", "path": "/a"}).json()["error"]
    assert (error["code"], error["type"]) == ("unsupported", "invalid_request_error") and "LoRA" in error["message"]
    assert paced.get("/admin/loras", headers=ADMIN).json()["data"] == []


def test_asleep_it_holds_no_memory_and_takes_no_requests_and_awake_it_answers_as_before(sleeper):
    def text():
        body = {"prompt": "import os\n", "max_tokens": 8, "temperature": 0}
        return sleeper.post(COMPLETIONS, body).json()["choices"][0]["text"]

    executor = sleeper.frontend.client.llm.engine.executor
    before, said = executor.memory_report(), text()
    answer = operate(sleeper, "sleep").json()
    assert answer["state"] == "asleep" and answer["given_back_bytes"] == before["weights"] + before["kv"]
    assert executor.memory_report()["weights"] == executor.memory_report()["kv"] == 0
    refused = sleeper.post(COMPLETIONS, SHORT)
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "asleep"
    assert "retry-after" in refused.headers
    assert sleeper.get("/ready").status_code == 503 and sleeper.get("/health").status_code == 200
    assert operate(sleeper, "wake").json()["state"] == "serving"
    assert text() == said and executor.memory_report() == before


def test_sleep_waits_for_requests_and_gives_up_where_they_do_not_end(sleeper):
    with sleeper.http as http, http.stream("POST", COMPLETIONS, json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        answer = operate(sleeper, "sleep?timeout=0.05")
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "requests_inside"
        assert state(sleeper) == "serving"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sleeper.post, COMPLETIONS, {**SHORT, "max_tokens": 100})
        sleeper.wait_until(lambda stats: stats.num_running == 1)
        assert operate(sleeper, "sleep").json()["state"] == "asleep"
        assert running.result(20).json()["usage"]["completion_tokens"] == 100
    operate(sleeper, "wake")


def test_what_does_not_fit_the_state_is_a_conflict(sleeper):
    operate(sleeper, "pause")
    for path in ("sleep", "wake"):
        answer = operate(sleeper, path)
        assert answer.status_code == 409 and "the server is paused" in answer.json()["error"]["message"]
    assert operate(sleeper, "pause").status_code == operate(sleeper, "resume").status_code == 200
    assert operate(sleeper, "wake").status_code == 200


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "x"])
def test_a_timeout_that_is_none_is_refused(sleeper, timeout):
    assert operate(sleeper, f"sleep?timeout={timeout}").status_code == 400
