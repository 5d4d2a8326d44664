"""Keys: every route of the app asks for an API key, but the two that a load balancer asks, and /admin for its own."""

from __future__ import annotations

import pytest

from quire.errors import ConfigError
from quire_server.middleware import OPEN_PATHS
from quire_server.settings import ServerSettings

from .harness import local_engine, serving

KEYS, ADMIN_KEY = ("first-key", "second-key"), "admin-key"


@pytest.fixture(scope="module")
def guarded():
    with serving(local_engine(), api_keys=KEYS, admin_keys=(ADMIN_KEY,)) as running:
        yield running


def bearer(key):
    return {"Authorization": f"Bearer {key}"} if key else {}


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


def opened_by(running, key):
    """Return the paths where this key, or none, gets past."""
    with running.http as http:
        asked = {(m, path): http.request(m, path, headers=bearer(key)).status_code for m, path in all_routes(running)}
    return {path for (_, path), status in asked.items() if status not in (401, 403)}


def test_which_key_guards_which_route(guarded):
    paths = {path for _, path in all_routes(guarded)}
    admin = {path for path in paths if path.startswith("/admin")}
    assert opened_by(guarded, None) == set(OPEN_PATHS) == {"/health", "/ready"}
    assert opened_by(guarded, KEYS[1]) == paths - admin
    assert opened_by(guarded, ADMIN_KEY) == admin | OPEN_PATHS
    assert {f"/admin/{name}" for name in ("pause", "resume", "sleep", "wake", "cache/reset", "loras")} < admin


@pytest.mark.parametrize("api_keys", [(), KEYS])
def test_without_an_admin_key_nobody_controls_the_server(api_keys):
    with serving(local_engine(), api_keys=api_keys) as running:
        for method, path in all_routes(running):
            if path.startswith("/admin"):
                with running.http as http:
                    answer = http.request(method, path, headers=bearer(KEYS[0]))
                assert answer.status_code == 403 and "--admin-key" in answer.json()["error"]["message"]
                assert answer.json()["error"]["code"] == "admin_disabled"


def test_one_key_cannot_be_both():
    with pytest.raises(ConfigError, match="both an API key and an admin key"):
        ServerSettings(model_names=("m",), api_keys=("a", "b"), admin_keys=("b",))


@pytest.mark.parametrize(
    "path", ["/admin/x", "/admin", "/v1/models", "/nothing", "/health/", "/health/../metrics", "//metrics", "/Health"]
)
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
