"""What an operator decides about the server, beside the engine's own settings."""

from __future__ import annotations

from dataclasses import dataclass

from quire.errors import ConfigError

MIB = 2**20
POSITIVE = (
    "max_sequences",
    "stream_interval",
    "max_body_bytes",
    "max_header_bytes",
    "max_connections",
    "header_timeout_s",
    "body_timeout_s",
    "request_timeout_s",
    "retry_after_s",
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`model_names` are what clients may call the model. Without `api_keys` no key is asked for; without `admin_keys`
    nobody may use /admin."""

    model_names: tuple[str, ...]
    api_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    chat_template: str | None = None  # a template, or the name of one of the model's; None: the model's default
    trust_request_chat_template: bool = False  # a template is a program, which may run for ever
    max_sequences: int = 2048  # prompts of one request, times n
    stream_interval: int = 1  # tokens of a stream that are told at once, but for the first
    max_body_bytes: int = 32 * MIB
    max_header_bytes: int = 32 * 2**10  # request line and headers together
    max_connections: int = 4096
    header_timeout_s: float = 30.0  # a connection whose headers take longer is closed
    body_timeout_s: float = 60.0  # a body that takes longer to arrive is refused
    request_timeout_s: float | None = None  # a request that takes longer is ended
    allowed_origins: tuple[str, ...] = ()  # of browsers on other sites (CORS); none by default
    root_path: str = ""  # prefix under which a proxy offers the server, and which it takes away
    retry_after_s: int = 1  # what a client is told to wait when the queue is full
    log_requests: bool = True
    otlp_traces_endpoint: str | None = None  # where traces go, by OTLP over HTTP; None: no traces

    def __post_init__(self) -> None:
        if not self.model_names or "" in self.model_names:
            raise ConfigError(f"model_names is {self.model_names!r}; give at least one name, none of them empty")
        for key in (*self.api_keys, *self.admin_keys):
            if not key.isascii() or not key.strip():
                raise ConfigError("a key is empty or not ASCII; give keys of ASCII characters, for instance of uuidgen")
        if set(self.api_keys) & set(self.admin_keys):
            raise ConfigError("a key is both an API key and an admin key; clients must not control the server")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; it must be greater than 0")
