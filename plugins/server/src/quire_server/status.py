"""What the server says about itself: models, health, readiness, version, metrics."""

from __future__ import annotations

import logging
import time

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

import quire
from quire.errors import BackendError, EngineDeadError
from quire_server import schemas
from quire_server.errors import as_api_error
from quire_server.events import json_response
from quire_server.frontend import Frontend
from quire_server.metrics import EngineState

log = logging.getLogger(__name__)


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    created, info = int(time.time()), frontend.client.info

    def describe(name: str) -> dict[str, object]:
        about = {"id": name, "object": "model", "created": created, "owned_by": "quire"}
        return {**about, "root": info.model, "parent": None, "max_model_len": info.max_model_len, "permission": []}

    @router.get("/v1/models", responses=schemas.answers(schemas.Models))
    async def models() -> Response:
        """List the names that the model goes by."""
        return json_response({"object": "list", "data": [describe(name) for name in frontend.settings.model_names]})

    @router.get("/v1/models/{name:path}", responses=schemas.answers(schemas.Model, 404))
    async def model(name: str) -> Response:
        """Describe one."""
        return json_response(describe(frontend.check_model(name)))

    @router.get("/health", responses=schemas.answers(schemas.Status, 503))
    async def health() -> Response:
        """Answer 200 while the engine lives, else 503 with the cause."""
        check_alive(frontend)
        return json_response({"status": "ok"})

    @router.get("/ready", responses=schemas.answers(schemas.Status, 503))
    async def ready() -> Response:
        """Answer 200 while new requests are taken: the engine lives and the server is not shutting down."""
        check_alive(frontend)
        frontend.gate.check_open()
        return json_response({"status": "ready"})

    @router.get("/version", responses=schemas.answers(schemas.Version))
    async def version() -> Response:
        """Return the version."""
        return json_response({"version": quire.__version__})

    @router.get("/metrics", response_class=PlainTextResponse, responses=schemas.answers(str))
    async def metrics() -> Response:
        """Return Prometheus metrics."""
        engine = await read_engine(frontend)
        return Response(frontend.metrics.render(engine), media_type=CONTENT_TYPE_LATEST)

    return router


async def read_engine(frontend: Frontend) -> EngineState:
    """Return what the metrics tell of the engine; without a backend's own where it fails, which is logged."""
    gauges: dict[str, float] = {}
    try:
        stats = await frontend.client.stats()
        gauges = await frontend.client.gauges()
    except EngineDeadError:
        stats = None
    except BackendError as error:
        log.warning("the backend's own metrics are left out: %s", error)
    return EngineState(stats, frontend.gate.state, gauges)


def check_alive(frontend: Frontend) -> None:
    """Raise ApiError 503, with the cause, where the engine is dead."""
    death = frontend.client.death
    if death is not None:
        raise as_api_error(death, frontend.settings.retry_after_s)
