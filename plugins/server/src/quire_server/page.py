"""The page at `/`: a playground, and the KV cache to look at. All it needs lies in this package."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fastapi import APIRouter, Response

from quire_server.errors import ApiError
from quire_server.events import json_response
from quire_server.frontend import Frontend

FOLDER = Path(__file__).parent / "static"
SCRIPTS = ("page.js", "cache.js", "blocks.js", "lanes.js", "engine.js")
FILES = {"index.html": "text/html", "page.css": "text/css", **dict.fromkeys(SCRIPTS, "text/javascript")}
LATENCIES = {"first": "time_to_first_token_seconds", "next": "inter_token_latency_seconds"}
"""What the page draws of latency: how often and how many seconds in all, so that it can tell the mean of late."""

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)
    contents = {name: (FOLDER / name).read_bytes() for name in FILES}

    @router.get("/")
    async def index() -> Response:
        return Response(contents["index.html"], headers=HEADERS, media_type="text/html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in contents:
            raise ApiError(404, f"the page has no file {name!r}", code="unknown_url")
        return Response(contents[name], headers=HEADERS, media_type=FILES[name])

    @router.get("/page/state/now")
    async def state() -> Response:
        """Return the engine's state, which the page draws several times a second."""
        info, snapshot = frontend.client.info, await frontend.client.snapshot()
        histograms = frontend.metrics.histograms
        state = msgspec.to_builtins(snapshot)
        state["stats"] = snapshot.stats._asdict()
        state["model"] = frontend.settings.model_names[0]
        state["engine"] = {
            "backend": info.backend,
            "device": info.device,
            "block_size": info.block_size,
            "max_model_len": info.max_model_len,
        }
        state["state"] = frontend.gate.state
        state["latency"] = {
            name: [sum(histograms[key].counts), histograms[key].total] for name, key in LATENCIES.items()
        }
        state["has_chat"] = frontend.settings.chat_template is not None or bool(
            frontend.tokenizer is not None and frontend.tokenizer.chat_templates
        )
        return json_response(state)

    @router.get("/page/engine/info")
    async def engine() -> Response:
        """Return what serves: the backend, and who computes each op. It does not change while the server runs."""
        return json_response(frontend.client.info)

    return router
