"""What the routes answer, as types: only for /openapi.json, which clients can be made from. Tests hold answers to it.

A field that is not listed may be there too, but a listed one always is.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

STATUSES = {
    400: "A value is wrong, or cannot be served; `param` names it.",
    401: "The key is missing or wrong.",
    403: "The server has no admin key.",
    404: "There is no such model, or no such response.",
    405: "The route has other methods.",
    408: "The body came too slowly, or the request took longer than its limit.",
    409: "The server is in a state in which that cannot be.",
    413: "The body is too large, or has too many fields.",
    415: "The body is not called JSON.",
    429: "The queue is full; Retry-After says when to come back.",
    431: "The headers are too large.",
    500: "The request failed; the server's log says more.",
    503: "The engine is dead or asleep, or the server is ending.",
}
ALWAYS = (400, 401, 405, 408, 413, 431, 500)
ASKED = (404, 415, 429, 503)
"""What requests with a body for the engine may be answered beside."""


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(TypedDict):
    """OpenAI's shape."""

    error: ErrorDetail


class MessagesErrorDetail(TypedDict):
    type: str
    message: str


class MessagesError(TypedDict):
    """Anthropic's shape."""

    type: Literal["error"]
    error: MessagesErrorDetail


class CachedTokens(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    prompt_logprobs: NotRequired[list[dict[str, Any] | None] | None]


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class TokenLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(TypedDict):
    content: list[ChosenLogprob] | None
    refusal: None


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None


class Chat(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: NotRequired[list[dict[str, Any] | None] | None]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputItem(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: str
    content: list[OutputText]


class ResponseUsage(TypedDict):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: CachedTokens


class ResponseObject(TypedDict):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[OutputItem]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: ResponseUsage | None


class TextBlock(TypedDict):
    type: Literal["text"]
    text: str


class MessagesUsage(TypedDict):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int


class MessageObject(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class InputTokens(TypedDict):
    input_tokens: int


class Embedding(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    id: str
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class Score(TypedDict):
    index: int
    object: Literal["score"]
    score: float
    num_tokens: int
    greedy: bool


class Scores(TypedDict):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage


class Tokens(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(TypedDict):
    prompt: str


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Status(TypedDict):
    status: str


class Version(TypedDict):
    version: str


class AdminState(TypedDict):
    state: Literal["serving", "paused", "falling asleep", "asleep", "ending"]
    num_requests: int
    given_back_bytes: int


class ForgottenBlocks(TypedDict):
    num_blocks: int


class Loras(TypedDict):
    object: Literal["list"]
    data: list[Any]


def answers(model: Any, *statuses: int, stream: bool = False, error: Any = Error) -> dict[int | str, dict[str, Any]]:
    """Return a route's answers for its decorator: `model` with status 200, errors with `statuses` and with ALWAYS."""
    events: dict[str, Any] = {"text/event-stream": {}} if stream else {}  # a schema may mean an event, or the whole
    found: dict[int | str, dict[str, Any]] = {200: {"model": model, "content": events, "description": "The answer."}}
    for status in sorted({*ALWAYS, *statuses}):
        found[status] = {"model": error, "description": STATUSES[status]}
    return found
