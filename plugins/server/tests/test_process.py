"""The engine in a process of its own: the same answers, and the truth when it dies."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from quire.errors import ConfigError, ModelError

from .harness import local_engine, read_events, remote_engine, serving, slow

COMPLETIONS = "/v1/completions"
SAMPLED = {"prompt": [5, 6, 7], "max_tokens": 24, "seed": 3, "temperature": 1, "ignore_eos": True}
LONG = {"prompt": [5] * 40, "max_tokens": 2000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def remote():
    with serving(remote_engine(**slow(2), max_num_seqs=2, max_queued_requests=2)) as running:
        yield running
        running.check_rest()


def test_answers_are_those_of_an_engine_in_this_process(remote, null):
    texts = [running.post(COMPLETIONS, SAMPLED).json()["choices"][0]["text"] for running in (remote, null)]
    assert texts[0] == texts[1]
    events = read_events(remote.post(COMPLETIONS, {**SAMPLED, "stream": True}))
    assert "".join(event["choices"][0]["text"] for event in events) == texts[0]


def test_a_client_that_leaves_frees_its_blocks(remote):
    with remote.http as http, http.stream("POST", COMPLETIONS, json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        remote.wait_until(lambda stats: stats.num_running == 1)
    remote.check_rest()


def test_refusals_cross_the_border_with_their_field(remote):
    answer = remote.post(COMPLETIONS, {"prompt": "a", "logprobs": 1})
    assert answer.status_code == 400 and "null backend" in answer.json()["error"]["message"]


def test_a_full_queue_crosses_it_too(remote):
    answer = remote.post(COMPLETIONS, {"prompt": [[5]] * 9, "max_tokens": 500, "ignore_eos": True})
    assert answer.status_code == 429 and "retry-after" in answer.headers
    remote.check_rest()


def test_embeddings_cross_it(remote):
    answer = remote.post("/v1/embeddings", {"input": "a", "normalize": False})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"][0]["embedding"]) == 384


def test_killed_in_the_middle_every_stream_is_told_and_a_restart_brings_it_back(caplog):
    with serving(remote_engine(restarts=1, **slow(5))) as running:
        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(running.post, COMPLETIONS, {**LONG, "prompt": [5 + i] * 40}) for i in range(8)]
            counts = running.frontend.metrics.counts
            running.wait_until(lambda stats: counts["prompt_tokens"] == 8 * 40)  # each has had its first token
            killed, first = time.monotonic(), running.frontend.client.pid
            os.kill(first, signal.SIGKILL)
            told = [stream.result(30).text.split("\n\n") for stream in streams]
        for *_, last, done, nothing in told:
            assert "SIGKILL" in last and '"engine_dead"' in last and (done, nothing) == ("data: [DONE]", "")
        answer = running.get("/health")
        assert answer.status_code == 503 and "SIGKILL" in answer.json()["error"]["message"]
        assert running.post(COMPLETIONS, SAMPLED).status_code == 503
        while running.get("/health").status_code != 200:
            assert time.monotonic() < killed + 60, "the engine does not come back"
            time.sleep(0.05)
        assert running.frontend.client.pid != first
        assert re.search(r"the engine is back after \d+\.\d s", caplog.text)
        assert running.post(COMPLETIONS, SAMPLED).status_code == 200
        running.check_rest()
        os.kill(running.frontend.client.pid, signal.SIGKILL)  # once more, and there are no restarts left
        while running.get("/ready").status_code != 503:
            assert time.monotonic() < killed + 90
        assert running.get("/metrics").status_code == 200


def test_an_engine_that_is_started_again_is_paused_as_the_one_before_was():
    with serving(remote_engine(restarts=1), admin_keys=("admin",)) as running:
        running.post("/admin/pause", headers={"Authorization": "Bearer admin"})
        first = running.frontend.client.pid
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while running.frontend.client.pid == first or running.get("/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(running.post, COMPLETIONS, SAMPLED)
            running.wait_until(lambda stats: stats.num_waiting == 1)
            running.post("/admin/resume", headers={"Authorization": "Bearer admin"})
            assert waiting.result(30).status_code == 200


@pytest.mark.parametrize(
    ("settings", "kind", "word"),
    [({"backend_options": {"no_such": "1"}}, ConfigError, "no_such"), ({"model": "/nowhere"}, ModelError, "/nowhere")],
)
def test_what_keeps_the_engine_from_opening_is_raised_here(settings, kind, word):
    with pytest.raises(kind, match=word), serving(remote_engine(**settings)):
        pass


def test_the_process_ends_with_the_server():
    with serving(remote_engine()) as running:
        pid = running.frontend.client.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_signals_for_the_server_do_not_stop_the_engine(remote):
    for each in (signal.SIGTERM, signal.SIGINT):
        os.kill(remote.frontend.client.pid, each)
    assert remote.post(COMPLETIONS, SAMPLED).status_code == 200


def test_prompt_ids_do_not_travel_back_with_every_token(remote):
    async def collect():
        from quire.intake import Prompt
        from quire.sampling import SamplingParams

        params = SamplingParams(max_tokens=3, ignore_eos=True, output_kind="delta")
        return [item async for item in remote.frontend.client.generate(Prompt(None, [5] * 100), params, "one")]

    outputs = remote.do(collect())
    assert all(output.prompt_token_ids == [] for output in outputs)
    assert sum(len(output.outputs[0].token_ids) for output in outputs) == 3


def test_a_first_output_comes_before_the_deltas_that_go_on_with_it():
    """The engine's steps may be done before the event loop looks: all of their news is then sent at once, in order."""
    with serving(remote_engine()) as running:
        body = {"prompt": [[5]] * 16, "n": 4, "max_tokens": 30, "ignore_eos": True, "stream": True, "seed": 1}
        for _ in range(3):
            events = read_events(running.post(COMPLETIONS, body))
            assert sum(event["choices"][0]["finish_reason"] == "length" for event in events) == 64
        running.check_rest()


def test_local_and_remote_describe_the_engine_alike(remote):
    with serving(local_engine(max_num_seqs=2)) as running:
        assert running.frontend.client.info == remote.frontend.client.info
