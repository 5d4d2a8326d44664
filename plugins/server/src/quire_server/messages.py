"""/v1/messages: a conversation is answered, as Anthropic's clients ask and read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from quire.intake import Prompt
from quire.outputs import RequestOutput
from quire.sampling import OutputKind, SamplingParams
from quire_server import schemas
from quire_server.errors import ApiError
from quire_server.events import event, json_response, open_stream, while_connected
from quire_server.express import EventPatterns, Express
from quire_server.frontend import Frontend
from quire_server.requests import Body, Many, Message
from quire_server.sampling import NOT_SERVED
from quire_server.usage import Usage

Content = str | Many[dict[str, Any]]


class Turn(Body):
    """One message of the conversation."""

    role: Literal["user", "assistant"]
    content: Content


class Conversation(Body):
    """What a prompt is made of. A last message of the assistant is continued."""

    model: str
    messages: Many[Turn] = Field(min_length=1)
    system: Content | None = None
    tools: Many[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class MessagesRequest(Conversation):
    """Body of /v1/messages."""

    max_tokens: int
    stop_sequences: Many[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool = False
    metadata: dict[str, Any] | None = None  # taken and not used
    service_tier: str | None = None  # taken and not used: there is one
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)  # seconds
    cache_control: dict[str, Any] | None = None  # taken and not used: equal prefixes are always cached


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    error = schemas.MessagesError

    @router.post(
        "/v1/messages", responses=schemas.answers(schemas.MessageObject, *schemas.ASKED, stream=True, error=error)
    )
    async def create(request: MessagesRequest, http: Request) -> Response:
        """Answer a conversation."""
        job = await MessagesJob.open(frontend, request, http)
        deadline = frontend.deadline(http, request.timeout)
        if request.stream:
            return await open_stream(http, job.stream(), deadline, done=b"", tell=tell_error, express=job.express)
        return json_response(await while_connected(http, job.collect(), deadline))

    @router.post("/v1/messages/count_tokens", responses=schemas.answers(schemas.InputTokens, 404, 415, error=error))
    async def count_tokens(request: Conversation) -> Response:
        """Return how many tokens a conversation has."""
        frontend.check_model(request.model)
        return json_response({"input_tokens": len((await read_turns(frontend, request)).token_ids)})

    return router


def tell_error(error: ApiError) -> bytes:
    """Return the event that ends a stream which fails."""
    return event(error.body_of_messages(), "error")


async def read_turns(frontend: Frontend, request: Conversation) -> Prompt:
    """Return the conversation as a prompt. Raise ApiError, RequestError."""
    _refuse_unserved(request)
    turns = [Message(role=turn.role, content=turn.content) for turn in request.messages]
    if request.system:
        turns.insert(0, Message(role="system", content=request.system))
    return await frontend.read_chat(turns, continue_final_message=turns[-1].role == "assistant")


class MessagesJob:
    """One call of the route: its prompt, its parameters, and the answer as it comes."""

    def __init__(self, frontend: Frontend, name: str, prompt: Prompt, params: SamplingParams, request_id: str) -> None:
        self._frontend = frontend
        self._prompt = prompt
        self._params = params
        self._id = f"msg_{request_id}"
        self._name = name
        self.usage = Usage(len(prompt.token_ids), params)
        self.express = Express(self._plain_event, self.usage)
        self._patterns = EventPatterns(lambda _, text: _text_event(text))

    @classmethod
    async def open(cls, frontend: Frontend, request: MessagesRequest, http: Request) -> MessagesJob:
        """Read and check everything. Raise ApiError, RequestError."""
        name = frontend.check_model(request.model)
        params = _params(request, frontend.defaults)
        prompt = await read_turns(frontend, request)
        params = frontend.fit(prompt, params, limit_given=True)
        job = cls(frontend, name, prompt, params, http.state.request_id)
        http.state.usage = job.usage
        return job

    async def collect(self) -> dict[str, Any]:
        """Return the whole answer."""
        async with aclosing(self._outputs()) as outputs:
            output = [output async for output in outputs][-1]
        content = [{"type": "text", "text": output.outputs[0].text}]
        return {**self._message(content), **_ending(output), "usage": self._usage()}

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the answer as events."""
        begun = False
        async with aclosing(self._outputs()) as outputs:
            async for output in outputs:
                if not begun:
                    begun = True
                    for each in self._opening():
                        yield each
                if text := output.outputs[0].text:
                    yield _text_event(text)
        yield _event("content_block_stop", index=0)
        yield _event("message_delta", delta=_ending(output), usage={"output_tokens": self.usage.num_output_tokens})
        yield _event("message_stop")

    def _plain_event(self, index: int, text: str) -> bytes | None:
        """Return the event of a text; the opening has gone out before any of them."""
        return self._patterns.fill(index, text) if text else None

    def _opening(self) -> list[bytes]:
        start = {**self._message([]), "stop_reason": None, "stop_sequence": None}
        start["usage"] = {**self._usage(), "output_tokens": 0}
        return [
            _event("message_start", message=start),
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ]

    async def _outputs(self) -> AsyncGenerator[RequestOutput]:
        async with aclosing(self._frontend.generate(self._prompt, self._params, self.express)) as outputs:
            async for output in outputs:
                self.usage.note(0, output)
                yield output

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._name, "content": content}

    def _usage(self) -> dict[str, int]:
        cached = self.usage.num_cached_tokens
        return {
            "input_tokens": self.usage.num_prompt_tokens - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": self.usage.num_output_tokens,
        }


def _params(request: MessagesRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    asked = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences,
        "output_kind": OutputKind.DELTA if request.stream else OutputKind.FINAL_ONLY,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return SamplingParams(**{**defaults, **given, "max_tokens": request.max_tokens})


def _ending(output: RequestOutput) -> dict[str, str | None]:
    """Return why the answer ended, in Anthropic's words."""
    item = output.outputs[0]
    if item.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(item.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": item.stop_reason}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def _refuse_unserved(request: Conversation) -> None:
    if request.tools and (request.tool_choice or {}).get("type") != "none":
        message = f"calling tools {NOT_SERVED}; leave tools out, or set tool_choice to {{'type': 'none'}}"
        raise ApiError(400, message, param="tools", code="unsupported")
    if (request.thinking or {}).get("type", "disabled") != "disabled":
        raise ApiError(400, f"thinking {NOT_SERVED}; leave it out", param="thinking", code="unsupported")


def _text_event(text: str) -> bytes:
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def _event(name: str, **fields: Any) -> bytes:
    return event({"type": name, **fields}, name)
