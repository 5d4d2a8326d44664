"""API keys: every route of the app asks for one, but the two that a load balancer asks."""

from __future__ import annotations

import pytest

from quire_server.middleware import OPEN_PATHS

from .harness import local_engine, serving

KEYS = ("first-key", "second-key")


@pytest.fixture(scope="module")
def guarded():
    with serving(local_engine(), api_keys=KEYS) as running:
        yield running


def all_routes(running):
    """Return (method, path) of every route that the app has, those of the framework too."""
    from quire_server.app import make_app

    found = set()
    for route in walk(make_app(running.frontend).routes):
        found |= {(method, route.path) for method in getattr(route, "methods", None) or {"GET"}}
    return sorted(found)


def walk(routes):
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            yield from walk(inner)
        else:
            yield route


def test_the_walk_sees_the_routes(guarded):
    found = {path for _, path in all_routes(guarded)}
    assert {"/v1/completions", "/v1/chat/completions", "/metrics", "/health", "/openapi.json"} <= found
    assert len(found) >= 14


def test_every_route_but_two_asks_for_a_key(guarded):
    with guarded.http as http:
        statuses = {(method, path): http.request(method, path).status_code for method, path in all_routes(guarded)}
    open_to_all = {path for (_, path), status in statuses.items() if status != 401}
    assert open_to_all == set(OPEN_PATHS) == {"/health", "/ready"}


@pytest.mark.parametrize("path", ["/v1/models", "/nothing", "/health/", "/health/../metrics", "//metrics", "/Health"])
def test_no_spelling_gets_past(guarded, path):
    assert guarded.get(path).status_code == 401


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(guarded, key):
    assert guarded.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert guarded.get("/v1/models", headers={"x-api-key": key}).status_code == 200


@pytest.mark.parametrize("value", ["first-key", "Bearer", "Bearer first-ke", "Bearer first-key2", "Basic first-key"])
def test_nothing_else_opens(guarded, value):
    answer = guarded.get("/v1/models", headers={"Authorization": value})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert error["code"] == "invalid_api_key" and error["type"] == "authentication_error"
    assert "first" not in answer.text


def test_a_key_that_is_not_ascii_is_refused_like_any_other(guarded):
    assert guarded.get("/v1/models", headers={"Authorization": "Bearer k\u00e9y".encode()}).status_code == 401


def test_behind_a_proxys_path_it_is_the_same():
    with serving(local_engine(), api_keys=KEYS, root_path="/api") as running:
        assert running.get("/health").status_code == 200
        assert running.get("/v1/models").status_code == running.get("/api/health").status_code == 401
        assert running.get("/").headers["www-authenticate"].startswith("Basic")
        answer = running.get("/v1/models", headers={"Authorization": "Bearer first-key"})
        assert answer.json()["data"][0]["id"] == "demo"


def test_pages_of_allowed_sites_may_read_answers_and_ask_before_without_a_key():
    origin = "http://friend.example"
    with serving(local_engine(), api_keys=KEYS, allowed_origins=(origin,)) as running, running.http as http:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert http.options("/v1/completions", headers=asked).headers["access-control-allow-origin"] == origin
        assert http.options("/v1/completions", headers={**asked, "Origin": "http://foe.example"}).status_code == 400
        assert http.post("/v1/completions", headers={"Origin": origin}).status_code == 401


def test_pages_of_other_sites_may_not_read_answers_by_default(guarded):
    answer = guarded.get("/health", headers={"Origin": "http://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers
