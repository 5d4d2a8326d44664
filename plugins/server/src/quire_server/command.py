"""`quire serve`: the engine behind HTTP, as the OpenAI clients speak it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quire.cli.console import notes
from quire.cli.options import engine_options
from quire.config import EngineConfig, make_config
from quire_server.engine_client import EngineClient
from quire_server.local import open_local
from quire_server.options import choose, read_settings, read_template, server_options
from quire_server.remote import RemoteEngine
from quire_server.serving import Listening, bind, make_frontend, open_tokenizer, warm_up
from quire_server.serving import serve as serve_frontend
from quire_server.settings import ServerSettings
from quire_server.tracing import open_traces

__all__ = ["read_template", "run", "serve"]

LIMITS = ("max_queued_requests", "max_queued_tokens", "max_logprobs")
"""Options of the server that the engine enforces."""


@server_options
@engine_options
def serve(
    model: Annotated[str, typer.Argument(help="Model folder, installed model (demo), or Hugging Face id.")],
    *,
    settings: dict[str, Any],
    server: dict[str, Any],
) -> None:
    """Serve a model over HTTP: OpenAI's routes, /metrics, /health. Ends with SIGTERM or Ctrl-C."""
    limits = {name: server[name] for name in LIMITS if name in server}
    config = make_config({"model": model, **settings, **limits})
    restarts = None if server.get("in_process") else server.get("restart_engine", 0)
    log_to_stderr()
    code = run(config, read_settings(model, server), Listening(**choose(Listening, server)), restarts)
    if code:
        raise typer.Exit(code)


def run(config: EngineConfig, settings: ServerSettings, listening: Listening, restarts: int | None) -> int:
    """Open the engine and serve it until a signal comes; return the exit code.

    `restarts` is how often an engine that died is started again; None runs the engine in this process.
    """
    console = notes()
    if settings.otlp_traces_endpoint is not None:  # what is missing is told before a model is loaded
        open_traces(settings.otlp_traces_endpoint).shutdown()
    console.print(f"loading [bold]{escape(config.model)}[/] …")
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_main(config, settings, listening, console, restarts))


async def _main(
    config: EngineConfig, settings: ServerSettings, listening: Listening, console: Console, restarts: int | None
) -> int:
    started, sockets = time.perf_counter(), bind(listening)
    opening = asyncio.create_task(_open(config, settings.stream_interval, restarts))
    tokenizer = await asyncio.to_thread(open_tokenizer, config)
    await asyncio.to_thread(warm_up, tokenizer)
    client = await opening
    console.print(f"[dim]engine open after {time.perf_counter() - started:.1f} s[/]")
    return await serve_frontend(make_frontend(client, tokenizer, settings), listening, console, sockets)


async def _open(config: EngineConfig, stream_interval: int, restarts: int | None) -> EngineClient:
    if restarts is None:
        return await asyncio.to_thread(open_local, config, stream_interval)
    return await RemoteEngine.open(config, restarts, stream_interval)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def log_to_stderr() -> None:
    """Write the server's lines as they are: one JSON object for each request, warnings as text."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("quire_server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
