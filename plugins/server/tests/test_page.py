"""The page: served with what it needs and nothing from elsewhere, under the server's keys; its view tells the truth."""

from __future__ import annotations

import base64
import re

import pytest

from .harness import local_engine, serving, slow


@pytest.fixture(scope="module")
def guarded():
    with serving(local_engine(**slow(5)), api_keys=("secret",)) as running:
        yield running


def basic(password):
    return {"Authorization": "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()}


def test_a_browser_is_asked_for_the_key_and_may_send_it_as_a_password(guarded):
    refused = guarded.get("/")
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic ")
    assert guarded.get("/", headers=basic("secret")).status_code == 200
    for wrong in (basic("other"), {"Authorization": "Basic ***"}, {"Authorization": "Basic c2VjcmV0"}):
        assert guarded.get("/", headers=wrong).status_code == 401


def test_everything_that_the_page_names_is_served(null):
    page = null.get("/")
    assert page.headers["content-type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    assert len(names) == 2  # the style, and the script that brings the others
    script = null.get("/page/page.js").text
    names += [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', script)]
    for name in names:
        answer = null.get(f"/{name}")
        assert answer.status_code == 200 and not re.search(r"https?://", answer.text), name
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_what_is_no_file_of_the_page_is_not_served(null):
    for name in ("nothing.js", "..%2fapp.py", "%2e%2e/app.py"):
        assert null.get(f"/page/{name}").status_code == 404


def test_the_view_shows_who_owns_which_block(guarded):
    key = {"Authorization": "Bearer secret"}
    body = {"prompt": [5] * 100, "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 2, "seed": 1}
    with guarded.http as http, http.stream("POST", "/v1/completions", json=body, headers=key) as response:
        lines = response.iter_lines()
        next(lines)
        guarded.wait_until(lambda stats: stats.num_running == 2)
        state = guarded.get("/page/state/now", headers=key).json()
    first, second = (set(request["block_ids"]) for request in state["running"])
    assert len(first) >= 7 and first & second, "the prompt's blocks are shared"
    assert all(0 <= block - state["first_block"] < state["num_blocks"] for block in first | second)
    assert state["model"] == "demo" and state["stats"]["num_running"] == 2 and state["state"] == "serving"
    assert state["waiting"] == {} and len(state["latency"]["next"]) == 2
    guarded.check_rest()
    state = guarded.get("/page/state/now", headers=key).json()
    assert state["running"] == [] and state["cached_blocks"], "what was computed can be found again"


def test_what_serves_is_told_to_who_has_the_key(guarded, demo):
    assert guarded.get("/page/engine/info").status_code == 401
    told = guarded.get("/page/engine/info", headers={"Authorization": "Bearer secret"}).json()
    assert told["backend"] == "null" and told["kernels"] == []
    told = demo.get("/page/engine/info").json()
    providers = {kernel["op"]: kernel["provider"] for kernel in told["kernels"]}
    assert {"paged_attention", "kv_write"} & providers.keys() and told["backend"] in providers.values()


def test_who_waits_is_told(guarded):
    key = {"Authorization": "Bearer secret"}
    body = {"prompt": [5] * 9, "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 17}
    with guarded.http as http, http.stream("POST", "/v1/completions", json=body, headers=key) as response:
        lines = response.iter_lines()
        next(lines)
        guarded.wait_until(lambda stats: stats.num_running == 16)
        waiting = guarded.get("/page/state/now", headers=key).json()["waiting"]
    assert list(waiting.values()) == [9]
