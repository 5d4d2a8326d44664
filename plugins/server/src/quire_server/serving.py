"""One server's life: open the engine, listen, say so, and on SIGTERM finish what runs and leave with 0."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import uvicorn
from rich.console import Console
from rich.markup import escape

from quire.config import EngineConfig
from quire.errors import ConfigError, RequestError
from quire.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer
from quire_server.app import make_app
from quire_server.engine_client import EngineClient, EngineInfo
from quire_server.frontend import Frontend
from quire_server.guard import GuardedProtocol
from quire_server.metrics import Metrics
from quire_server.settings import ServerSettings
from quire_server.tracing import open_traces


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how the server listens. `uds` is the path of a unix socket, instead of host and port."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    drain_s: float = 60.0  # how long requests that run may go on after SIGTERM


def make_frontend(client: EngineClient, tokenizer: Tokenizer | None, settings: ServerSettings) -> Frontend:
    """Return what serves requests, with metrics of its own. Raise ConfigError where traces need what is missing."""
    traces = None if settings.otlp_traces_endpoint is None else open_traces(settings.otlp_traces_endpoint)
    return Frontend(client, tokenizer, settings, Metrics(client.info, settings.model_names[0]), traces)


def open_tokenizer(config: EngineConfig) -> Tokenizer | None:
    """Read the model's tokenizer, for a process that has no engine. Raise ModelError."""
    from quire.models.resolve import resolve_path

    folder = resolve_path(config.tokenizer) if config.tokenizer else resolve_path(config.model, config.revision)
    if config.tokenizer is None and not has_tokenizer(folder):
        return None
    return load_tokenizer(folder, trust_remote_code=config.trust_remote_code)


def warm_up(tokenizer: Tokenizer | None) -> None:
    """Render a chat once: the first time imports for seconds, which no client should wait for."""
    if tokenizer is not None and tokenizer.chat_templates:
        with contextlib.suppress(RequestError):  # a template may refuse this message, and is imported all the same
            tokenizer.render_chat([{"role": "user", "content": "hello"}])


def bind(listening: Listening) -> list[socket.socket] | None:
    """Take the address before a model is loaded for nothing; None for a unix socket. Raise ConfigError."""
    _check_tls(listening)
    if listening.uds is not None:
        return None
    where = f"host {listening.host!r}, port {listening.port}"
    try:
        found = socket.getaddrinfo(listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with contextlib.ExitStack() as stack:
            taken = stack.enter_context(socket.socket(family, kind, protocol))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            stack.pop_all()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {where}: {error}; choose another with --host and --port") from error
    return [taken]


def _check_tls(listening: Listening) -> None:
    cert, key = listening.tls_cert, listening.tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise ConfigError("tls_cert and tls_key belong together; give both, or neither")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:
        raise ConfigError(f"tls_cert {cert!r} with tls_key {key!r} cannot be used: {error}") from error


async def serve(frontend: Frontend, listening: Listening, console: Console, sockets: list[socket.socket] | None) -> int:
    """Serve until a signal comes; return the exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 if it could not listen."""
    server = Server(frontend, listening, console)
    try:
        await server.serve(sockets)
    except SystemExit:  # uvicorn's way to say that it cannot listen on a unix socket; it has logged why
        await frontend.client.close()
        return 1
    return 130 if server.signal is signal.SIGINT else 0


class Server(uvicorn.Server):
    """uvicorn's server, which here leaves signals to the event loop and says when it is ready."""

    def __init__(self, frontend: Frontend, listening: Listening, console: Console) -> None:
        super().__init__(_uvicorn_config(frontend, listening))
        self.signal: signal.Signals | None = None
        self._frontend = frontend
        self._listening = listening
        self._console = console

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # signals come to the main thread only
            yield
            return
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._stop, each)
        try:
            yield
        finally:
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)

    def _stop(self, which: signal.Signals) -> None:
        """Finish what runs; a second signal ends that too."""
        self._frontend.gate.state = "ending"
        if self.should_exit:
            for task in self.server_state.tasks:
                task.cancel()
            return
        self.signal, self.should_exit = which, True
        num_running = len(self.server_state.tasks)
        if num_running:
            limit = self._listening.drain_s
            self._console.print(f"finishing {num_running} requests, at most {limit:g} s; once more ends them at once")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._console.print(
                ready_line(self.url, self._frontend.client.info, self._frontend.settings), soft_wrap=True
            )

    @property
    def url(self) -> str:
        """Where it listens; its port is known once it has started."""
        if self._listening.uds is not None:
            return f"unix:{self._listening.uds}"
        scheme = "https" if self._listening.tls_cert else "http"
        port = self.servers[0].sockets[0].getsockname()[1]
        host = self._listening.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def ready_line(url: str, info: EngineInfo, settings: ServerSettings) -> str:
    """Return what is told when requests are taken."""
    keys = "" if settings.api_keys else ", no API key"
    return (
        f"[bold green]ready[/] {escape(url)}  model {escape(settings.model_names[0])}  "
        f"backend {escape(info.backend)} ({escape(info.device)})  KV {info.num_kv_tokens:,} tokens "
        f"in {info.num_blocks:,} blocks, context {info.max_model_len:,}{keys}"
    )


def _uvicorn_config(frontend: Frontend, listening: Listening) -> uvicorn.Config:
    return uvicorn.Config(
        make_app(frontend),
        http=partial(GuardedProtocol, frontend.settings),  # type: ignore[arg-type]
        ws="none",
        host=listening.host,
        port=listening.port,
        uds=listening.uds,
        ssl_certfile=listening.tls_cert,
        ssl_keyfile=listening.tls_key,
        root_path=frontend.settings.root_path,
        timeout_graceful_shutdown=listening.drain_s,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=4096,
        timeout_keep_alive=75,
    )
