"""Metrics: all of vLLM's names that mean something here, with numbers that add up; the dashboard uses nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quire_server.metric_names import DEFINITIONS

from .harness import local_engine, remote_engine, serving, slow

COMPLETIONS = "/v1/completions"
VENDOR = Path(__file__).parents[3] / "conformance/tests/frozen"  # a backend of somebody else's
DASHBOARD = Path(__file__).parents[3] / "docs/grafana/quire.json"
VLLM = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "gpu_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "gpu_prefix_cache_queries_total",
    "gpu_prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "iteration_tokens_total_bucket",
    "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket",
    "request_max_num_generation_tokens_bucket",
    "request_params_n_bucket",
    "request_params_max_tokens_bucket",
    "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket",
    "time_per_output_token_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "request_time_per_output_token_seconds_bucket",
    "request_queue_time_seconds_bucket",
    "request_prefill_time_seconds_bucket",
    "request_decode_time_seconds_bucket",
    "request_inference_time_seconds_bucket",
    "request_prefill_kv_computed_tokens_bucket",
    "prompt_tokens_cached_total",
    "cache_config_info",
    "engine_sleep_state",
]
"""What dashboards made for vLLM ask for, as Prometheus names it."""


@pytest.fixture(scope="module")
def paced():
    with serving(local_engine(**slow(5)), api_keys=("key",), admin_keys=("admin",)) as running:
        yield running


def scrape(running):
    """Return every sample, by name and its own labels."""
    text = running.get("/metrics", headers={"Authorization": "Bearer key"}).text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = tuple(value for key, value in sorted(sample.labels.items()) if key not in ("model_name", "engine"))
            found[sample.name.removeprefix("vllm:"), *own] = sample.value
    return found


def ask(running, **body):
    whole = {"prompt": [5] * 40, "max_tokens": 6, "ignore_eos": True, **body}
    answer = running.post(COMPLETIONS, whole, headers={"Authorization": "Bearer key"})
    assert answer.status_code == 200


def grown(running, name, *labels, **body):
    """Return by how much a metric grows with one request."""
    before = scrape(running)[name, *labels]
    ask(running, **body)
    return scrape(running)[name, *labels] - before


def test_every_name_that_dashboards_ask_for_is_there(paced):
    assert {f"vllm:{name}" for name in VLLM} <= {f"vllm:{key[0]}" for key in scrape(paced)}


def test_every_metric_of_the_list_is_there_and_no_other(paced):
    names = {name for item in DEFINITIONS for name in (item.name, item.old) if name}
    found = {re.sub(r"_(total|bucket|sum|count)$", "", key[0]) for key in scrape(paced)}
    found = {name for name in found if not name.startswith(("process_", "iteration_tokens"))}
    assert found == names - {"iteration_tokens_total"}


@pytest.mark.parametrize("stream", [False, True])
def test_times_of_a_request_add_up(paced, stream):
    before = scrape(paced)
    ask(paced, stream=stream)
    after = scrape(paced)

    def seconds(name):
        assert after[f"{name}_seconds_count",] == before[f"{name}_seconds_count",] + 1
        return after[f"{name}_seconds_sum",] - before[f"{name}_seconds_sum",]

    parts = [seconds(f"request_{name}_time") for name in ("queue", "prefill", "decode", "inference")]
    queue, prefill, decode, inference = parts
    assert inference == pytest.approx(prefill + decode) and 0.02 < decode < 5 and 0.004 < prefill < 5 and queue >= 0
    assert seconds("e2e_request_latency") >= queue + inference
    assert seconds("time_to_first_token") >= prefill
    assert seconds("request_time_per_output_token") == pytest.approx(decode / 5)


def test_tokens_between_tokens_are_counted_one_by_one_under_both_names(paced):
    """Each token but those that come with a completion's first one, which may be several when the reader is slow."""
    for name in ("inter_token_latency_seconds_count", "time_per_output_token_seconds_count"):
        assert 20 <= grown(paced, name, stream=True, max_tokens=30) <= 29
        assert 40 <= grown(paced, name, stream=True, max_tokens=30, n=2) <= 58


def test_steps_are_counted_with_their_tokens(paced):
    assert grown(paced, "iteration_tokens_total_sum", prompt=[91] * 40) == 45
    assert grown(paced, "iteration_tokens_total_count", prompt=[92] * 40) == 6
    assert grown(paced, "iteration_tokens_total_bucket", "1.0", prompt=[93] * 40) == 5


def test_what_was_asked_and_what_came_is_counted(paced):
    assert grown(paced, "request_params_n_sum", n=3) == 3
    assert grown(paced, "request_params_max_tokens_sum", max_tokens=9) == 9
    assert grown(paced, "request_prompt_tokens_sum", prompt=[7] * 11) == 11
    assert grown(paced, "request_generation_tokens_sum", n=3) == 18
    assert grown(paced, "request_max_num_generation_tokens_sum", n=3) == 6
    assert grown(paced, "request_success_total", "length") == 1
    ask(paced, prompt=[8] * 40)
    assert grown(paced, "prompt_tokens_cached_total", prompt=[8] * 40) == 32
    assert grown(paced, "request_prefill_kv_computed_tokens_sum", prompt=[8] * 40) == 8


def test_what_a_backend_measures_is_told_under_its_own_name(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(VENDOR))  # for the engine's process
    with serving(remote_engine("acme"), api_keys=("key",)) as running:
        assert scrape(running)["acme_temperature_celsius",] == 40.0


def test_the_cache_and_the_engines_state_are_told(paced):
    (info,) = [key for key in scrape(paced) if key[0] == "cache_config_info"]
    assert {"16", "512", "null", "2048", "True"} <= set(info)
    assert scrape(paced)["engine_sleep_state", "awake"] == 1


def test_the_dashboard_uses_only_what_is_there(paced):
    names = {key[0] for key in scrape(paced)}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    used = {name for expression in asked for name in re.findall(r"vllm:(\w+)", expression)}
    assert len(used) > 15 and used <= names, used - names
    variables = [item["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    assert all(name in names for query in variables for name in re.findall(r"vllm:(\w+)", str(query)))


def test_every_panel_of_the_dashboard_has_its_own_place():
    boxes = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    cells = [
        (x, y)
        for box in boxes
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(cells) == len(set(cells)) and all(box["x"] + box["w"] <= 24 for box in boxes)
