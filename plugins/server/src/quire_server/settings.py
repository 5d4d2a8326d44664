"""What an operator decides about the server, beside the engine's own settings."""

from __future__ import annotations

from dataclasses import dataclass

from quire.errors import ConfigError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`model_names` are what clients may call the model. Without `api_keys` no key is asked for."""

    model_names: tuple[str, ...]
    api_keys: tuple[str, ...] = ()
    chat_template: str | None = None  # a template, or the name of one of the model's; None: the model's default
    trust_request_chat_template: bool = False  # a template is a program, which may run for ever
    max_sequences: int = 2048  # prompts of one request, times n
    max_body_bytes: int = 32 * MIB
    body_timeout_s: float = 60.0  # a body that takes longer to arrive is refused
    allowed_origins: tuple[str, ...] = ()  # of browsers on other sites (CORS); none by default
    root_path: str = ""  # prefix under which a proxy offers the server, and which it takes away
    retry_after_s: int = 1  # what a client is told to wait when the queue is full
    log_requests: bool = True

    def __post_init__(self) -> None:
        if not self.model_names or "" in self.model_names:
            raise ConfigError(f"model_names is {self.model_names!r}; give at least one name, none of them empty")
        if any(not key.isascii() or not key.strip() for key in self.api_keys):
            raise ConfigError(
                "an API key is empty or not ASCII; give keys of ASCII characters, for instance from uuidgen"
            )
        for name in ("max_sequences", "max_body_bytes", "body_timeout_s", "retry_after_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be greater than 0")
