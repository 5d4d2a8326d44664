"""`quire serve`: the engine behind HTTP, as the OpenAI clients speak it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quire.cli.console import notes
from quire.cli.options import engine_options
from quire.config import EngineConfig, make_config
from quire.errors import ConfigError
from quire_server.engine_client import EngineClient
from quire_server.local import open_local
from quire_server.remote import RemoteEngine
from quire_server.serving import Listening, bind, make_frontend, open_tokenizer, warm_up
from quire_server.serving import serve as serve_frontend
from quire_server.settings import MIB, ServerSettings

KEYS_VARIABLE = "QUIRE_API_KEYS"
SERVER = "Server"


def _help(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=SERVER)


@engine_options
def serve(
    model: Annotated[str, typer.Argument(help="Model folder, installed model (demo), or Hugging Face id.")],
    *,
    settings: dict[str, Any],
    host: Annotated[str, _help("Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _help("Port to listen on; 0 takes a free one.")] = 8000,
    uds: Annotated[str | None, _help("Path of a unix socket to listen on instead.")] = None,
    api_key: Annotated[list[str] | None, _help(f"A key for clients; repeatable. Also {KEYS_VARIABLE}.")] = None,
    served_model_name: Annotated[list[str] | None, _help("What clients call the model; repeatable.")] = None,
    chat_template: Annotated[str | None, _help("File with a chat template, or a name of the model's.")] = None,
    trust_request_chat_template: Annotated[
        bool, _help("Let requests bring templates, which are programs.", "--trust-request-chat-template")
    ] = False,
    max_queued_requests: Annotated[int | None, _help("Requests that may wait; more are answered 429.")] = None,
    max_queued_tokens: Annotated[int | None, _help("Prompt tokens that may wait; more are answered 429.")] = None,
    max_logprobs: Annotated[int | None, _help("Most logprobs that a request may ask for.")] = None,
    max_body: Annotated[int, _help("Largest body of a request, in MiB.")] = 32,
    allowed_origin: Annotated[list[str] | None, _help("Origin of web pages that may call; repeatable.")] = None,
    root_path: Annotated[str, _help("Path under which a proxy offers the server.")] = "",
    tls_cert: Annotated[str | None, _help("File with the TLS certificate.")] = None,
    tls_key: Annotated[str | None, _help("File with the TLS key.")] = None,
    drain: Annotated[float, _help("Seconds that running requests get after SIGTERM.")] = 60.0,
    log_requests: Annotated[bool, _help("Write a line for each request.", "--log-requests/--no-log-requests")] = True,
    restart_engine: Annotated[int, _help("How often an engine that died is started again.")] = 0,
    in_process: Annotated[bool, _help("Run the engine on a thread of the server's process.", "--in-process")] = False,
) -> None:
    """Serve a model over HTTP: OpenAI's routes, /metrics, /health. Ends with SIGTERM or Ctrl-C."""
    queue = {
        "max_queued_requests": max_queued_requests,
        "max_queued_tokens": max_queued_tokens,
        "max_logprobs": max_logprobs,
    }
    given = {name: value for name, value in queue.items() if value is not None}
    config = make_config({"model": model, **settings, **given})
    server_settings = ServerSettings(
        model_names=tuple(served_model_name or [model]),
        api_keys=read_keys(api_key or [], os.environ.get(KEYS_VARIABLE, "")),
        chat_template=read_template(chat_template),
        trust_request_chat_template=trust_request_chat_template,
        max_body_bytes=max_body * MIB,
        allowed_origins=tuple(allowed_origin or []),
        root_path=root_path,
        log_requests=log_requests,
    )
    listening = Listening(host, port, uds, tls_cert, tls_key, drain)
    log_to_stderr()
    code = run(config, server_settings, listening, None if in_process else restart_engine)
    if code:
        raise typer.Exit(code)


def run(config: EngineConfig, settings: ServerSettings, listening: Listening, restarts: int | None) -> int:
    """Open the engine and serve it until a signal comes; return the exit code.

    `restarts` is how often an engine that died is started again; None runs the engine in this process.
    """
    console = notes()
    console.print(f"loading [bold]{escape(config.model)}[/] …")
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_main(config, settings, listening, console, restarts))


async def _main(
    config: EngineConfig, settings: ServerSettings, listening: Listening, console: Console, restarts: int | None
) -> int:
    started, sockets = time.perf_counter(), bind(listening)
    opening = asyncio.create_task(_open(config, restarts))
    tokenizer = await asyncio.to_thread(open_tokenizer, config)
    await asyncio.to_thread(warm_up, tokenizer)
    client = await opening
    console.print(f"[dim]engine open after {time.perf_counter() - started:.1f} s[/]")
    return await serve_frontend(make_frontend(client, tokenizer, settings), listening, console, sockets)


async def _open(config: EngineConfig, restarts: int | None) -> EngineClient:
    if restarts is None:
        return await asyncio.to_thread(open_local, config)
    return await RemoteEngine.open(config, restarts)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def read_keys(given: list[str], variable: str) -> tuple[str, ...]:
    """Return the keys of the command line and of the environment, where commas part them."""
    named = [key.strip() for key in variable.split(",") if key.strip()]
    return tuple(dict.fromkeys([*given, *named]))


def read_template(given: str | None) -> str | None:
    """Return a file's chat template, or what is not a file as it is. Raise ConfigError."""
    if given is None or "{" in given or not ("/" in given or given.endswith(".jinja")):
        return given
    path = Path(given)
    if not path.is_file():
        raise ConfigError(f"chat_template is {given!r}, which is no file; give a file or one of the model's names")
    return path.read_text("utf-8")


def log_to_stderr() -> None:
    """Write the server's lines as they are: one JSON object for each request, warnings as text."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("quire_server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
