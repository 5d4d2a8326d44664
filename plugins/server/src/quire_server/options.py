"""The options of `quire serve` beside the engine's. What is not given is left to `ServerSettings` and `Listening`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from quire.cli.options import option, with_options
from quire.errors import ConfigError
from quire_server.serving import Listening
from quire_server.settings import MIB, ServerSettings

KEYS_VARIABLE = "QUIRE_API_KEYS"
ADMIN_KEYS_VARIABLE = "QUIRE_ADMIN_KEYS"
SERVER = "Server"

SERVER_OPTIONS: Mapping[str, Any] = {
    "host": option(str | None, "Address to listen on; 127.0.0.1 by default.", SERVER),
    "port": option(int | None, "Port to listen on, 8000 by default; 0 takes a free one.", SERVER),
    "uds": option(str | None, "Path of a unix socket to listen on instead.", SERVER),
    "tls_cert": option(str | None, "File with the TLS certificate.", SERVER),
    "tls_key": option(str | None, "File with the TLS key.", SERVER),
    "root_path": option(str | None, "Path under which a proxy offers the server.", SERVER),
    "api_keys": option(list[str] | None, f"A key for clients; repeatable. Also {KEYS_VARIABLE}.", SERVER, "--api-key"),
    "admin_keys": option(
        list[str] | None, f"A key for /admin; repeatable. Also {ADMIN_KEYS_VARIABLE}.", SERVER, "--admin-key"
    ),
    "allowed_origins": option(
        list[str] | None, "Origin of web pages that may call; repeatable.", SERVER, "--allowed-origin"
    ),
    "model_names": option(list[str] | None, "What clients call the model; repeatable.", SERVER, "--served-model-name"),
    "chat_template": option(str | None, "File with a chat template, or a name of the model's.", SERVER),
    "trust_request_chat_template": option(
        bool | None, "Let requests bring templates, which are programs.", SERVER, "--trust-request-chat-template"
    ),
    "stream_interval": option(int | None, "Tokens of a stream that an event holds, behind the first; 1.", SERVER),
    "max_queued_requests": option(int | None, "Requests that may wait; more are answered 429.", SERVER),
    "max_queued_tokens": option(int | None, "Prompt tokens that may wait; more are answered 429.", SERVER),
    "max_logprobs": option(int | None, "Most logprobs that a request may ask for.", SERVER),
    "max_body_bytes": option(int | None, "Largest body of a request, in MiB; 32 by default.", SERVER, "--max-body"),
    "max_connections": option(int | None, "Connections at once; 4096 by default.", SERVER),
    "request_timeout_s": option(
        float | None, "Seconds after which a request is ended; no limit by default.", SERVER, "--request-timeout"
    ),
    "drain_s": option(float | None, "Seconds that running requests get after SIGTERM; 60.", SERVER, "--drain"),
    "log_requests": option(
        bool | None, "Write a line for each request, as by default.", SERVER, "--log-requests/--no-log-requests"
    ),
    "otlp_traces_endpoint": option(
        str | None, "Where traces go, e.g. http://localhost:4318/v1/traces; needs quire-server\\[otel].", SERVER
    ),
    "restart_engine": option(int | None, "How often an engine that died is started again; 0.", SERVER),
    "in_process": option(bool | None, "Run the engine on a thread of the server's process.", SERVER, "--in-process"),
}


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put these options on a command; it gets those that were given as `server`."""
    return with_options(command, "server", SERVER_OPTIONS, dict)


def read_settings(model: str, given: Mapping[str, Any]) -> ServerSettings:
    """Return what an operator decides, of the command line and of the environment. Raise ConfigError."""
    chosen = choose(ServerSettings, given)
    chosen.setdefault("model_names", [model])
    chosen["api_keys"] = read_keys(chosen.get("api_keys", []), os.environ.get(KEYS_VARIABLE, ""))
    chosen["admin_keys"] = read_keys(chosen.get("admin_keys", []), os.environ.get(ADMIN_KEYS_VARIABLE, ""))
    chosen["chat_template"] = read_template(chosen.get("chat_template"))
    if "max_body_bytes" in chosen:
        chosen["max_body_bytes"] *= MIB
    frozen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()
    }
    return ServerSettings(**frozen)


def choose(cls: type[ServerSettings] | type[Listening], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that are fields of a class."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in given.items() if name in names}


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
