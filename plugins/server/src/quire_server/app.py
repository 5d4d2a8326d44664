"""The ASGI app: routes over a `Frontend`, and what stands before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

import quire
from quire_server import admin, chat, completions, messages, page, responses, status, tokens, vectors
from quire_server.errors import install_handlers
from quire_server.frontend import Frontend
from quire_server.middleware import ApiKeys, BodyLimit, RequestIds
from quire_server.tracing import Traces

PARTS = (completions, chat, responses, messages, vectors, tokens, status, admin, page)


def make_app(frontend: Frontend) -> FastAPI:
    """Return the app; when it shuts down, it closes the engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await frontend.client.close()
        if frontend.traces is not None:
            await asyncio.to_thread(frontend.traces.shutdown)  # sends what is left

    settings = frontend.settings
    app = App(
        title="Quire",
        version=quire.__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    for part in PARTS:
        app.include_router(part.make_router(frontend))
    install_handlers(app, settings.retry_after_s)
    _add_middleware(app, frontend)
    return app


class App(FastAPI):
    """FastAPI, whose schema says that wrong bodies are answered 422: here they are not."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
        return super().openapi()


def _add_middleware(app: FastAPI, frontend: Frontend) -> None:
    """Put everything before the routes; what is added last is met first."""
    settings = frontend.settings
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(ApiKeys, keys=settings.api_keys, admin_keys=settings.admin_keys)
    if settings.allowed_origins:  # before the keys: browsers ask without one what they may send
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.allowed_origins), allow_methods=["*"], allow_headers=["*"]
        )
    if frontend.traces is not None:
        app.add_middleware(Traces, provider=frontend.traces, model=settings.model_names[0])
    app.add_middleware(RequestIds, log_requests=settings.log_requests)
