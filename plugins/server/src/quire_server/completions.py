"""/v1/completions: a text goes on."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from quire.intake import Prompt
from quire.outputs import CompletionOutput, PositionLogprobs, RequestOutput
from quire.sampling import SamplingParams
from quire_server import schemas
from quire_server.events import event, json_response, open_stream, while_connected
from quire_server.express import EventPatterns, Express
from quire_server.frontend import Frontend, Part
from quire_server.logprobs import LogprobsFormat
from quire_server.requests import CompletionRequest
from quire_server.sampling import completion_params
from quire_server.usage import Usage


def make_router(frontend: Frontend) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/completions", responses=schemas.answers(schemas.Completion, *schemas.ASKED, stream=True))
    async def complete(request: CompletionRequest, http: Request) -> Response:
        """Continue a text, token ids, or several of them."""
        job = await CompletionJob.open(frontend, request, http)
        deadline = frontend.deadline(http, request.timeout)
        if request.stream:
            return await open_stream(http, job.stream(), deadline, express=job.express)
        return json_response(await while_connected(http, job.collect(), deadline))

    return router


class CompletionJob:
    """One call of the route: its prompts, their parameters, and the answer as it comes."""

    def __init__(
        self,
        frontend: Frontend,
        request: CompletionRequest,
        prompts: list[Prompt],
        params: list[SamplingParams],
        request_id: str,
    ) -> None:
        self._frontend = frontend
        self._request = request
        self._prompts = prompts
        self._params = params
        self._n = params[0].n
        self.usage = Usage(sum(len(prompt.token_ids) for prompt in prompts), params[0])
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": frontend.check_model(request.model),
        }
        names = LogprobsFormat(request.logprobs or 0, frontend.tokenizer, request.return_tokens_as_token_ids)
        self._choices = ChoiceWriter(request, [self._echo(prompt) for prompt in prompts], self._n, names)
        self.express = Express(self._plain_event, self.usage)
        self._patterns = EventPatterns(self._text_event)

    @classmethod
    async def open(cls, frontend: Frontend, request: CompletionRequest, http: Request) -> CompletionJob:
        """Read and check everything. Raise ApiError, RequestError."""
        frontend.check_model(request.model)
        params = completion_params(request, frontend.defaults)
        prompts = await frontend.read_prompts(
            request.prompt, cache_salt=request.cache_salt, add_special_tokens=request.add_special_tokens
        )
        frontend.check_count(len(prompts), params.n)
        limited = request.max_tokens is not None
        fitted = [frontend.fit(prompt, params, limit_given=limited) for prompt in prompts]
        job = cls(frontend, request, prompts, fitted, http.state.request_id)
        http.state.usage = job.usage
        return job

    async def collect(self) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [choice async for part in self._parts() for choice in self._choices.write(part)]
        choices.sort(key=lambda choice: choice["index"])
        return {**self._head, "choices": choices, "usage": self.usage.as_dict()}

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the answer as events."""
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                for choice in self._choices.write(part):
                    yield event(self._chunk([choice], self._request.continuous_usage))
        if self._request.include_usage:
            yield event(self._chunk([], True))

    def _plain_event(self, index: int, text: str) -> bytes | None:
        """Return the event of a text that goes on with a completion of the only prompt, if that is all it says."""
        if self._request.continuous_usage or not self._choices.has_begun(index):
            return None
        return self._patterns.fill(index, text)

    def _text_event(self, index: int, text: str) -> bytes:
        choice = self._choices.write_one(0, CompletionOutput(index=index, text=text, token_ids=[]))
        return event(self._chunk([choice], False))

    def _chunk(self, choices: list[dict[str, Any]], with_usage: bool) -> dict[str, Any]:
        chunk = {**self._head, "choices": choices}
        if self._request.include_usage:
            chunk["usage"] = self.usage.as_dict() if with_usage else None
        return chunk

    async def _parts(self) -> AsyncGenerator[Part]:
        async with aclosing(self._frontend.generate_all(self._prompts, self._params, self.express)) as parts:
            async for part in parts:
                if self._request.max_tokens == 0:
                    part = part._replace(output=_without_tokens(part.output))
                self.usage.note(part.prompt, part.output)
                yield part

    def _echo(self, prompt: Prompt) -> Prompt | None:
        """Return the prompt with its text, where it is to be repeated."""
        if not self._request.echo:
            return None
        if prompt.text is not None:
            return prompt
        return prompt._replace(text=self._frontend.need_tokenizer("echo").decode(prompt.token_ids))


class ChoiceWriter:
    """Turns outputs into choices, or into what is new of them."""

    def __init__(
        self, request: CompletionRequest, echoes: Sequence[Prompt | None], n: int, names: LogprobsFormat
    ) -> None:
        self._request = request
        self._echoes = echoes
        self._n = n
        self._names = names
        self._prompt_logprobs: dict[int, list[PositionLogprobs | None]] = {}
        self._offsets: dict[int, int] = {}  # by choice: characters given so far; a choice that is not there is new

    def write(self, part: Part) -> list[dict[str, Any]]:
        """Return one choice for each completion that has news."""
        if part.output.prompt_logprobs is not None:
            self._prompt_logprobs[part.prompt] = part.output.prompt_logprobs
        return [self.write_one(part.prompt, item) for item in part.output.outputs]

    def has_begun(self, index: int) -> bool:
        """Whether completion `index` of the first prompt has been written of, so that only news of it are wanted."""
        return index in self._offsets

    def write_one(self, prompt_index: int, item: CompletionOutput) -> dict[str, Any]:
        """Return the choice that tells of an item of a prompt's output."""
        index = prompt_index * self._n + item.index
        echo = self._echoes[prompt_index] if index not in self._offsets else None
        offset = self._offsets.get(index, 0)
        text = (echo.text or "" if echo is not None else "") + item.text
        self._offsets[index] = offset + len(text)
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(prompt_index, item, echo, offset),
            "finish_reason": item.finish_reason,
            "stop_reason": item.stop_reason,
        }
        if self._request.prompt_logprobs is not None:
            choice["prompt_logprobs"] = self._plain_prompt_logprobs(prompt_index)
        return choice

    def _logprobs(
        self, prompt_index: int, item: CompletionOutput, echo: Prompt | None, offset: int
    ) -> dict[str, Any] | None:
        if self._request.logprobs is None:
            return None
        token_ids = item.token_ids
        positions: list[PositionLogprobs | None] = list(item.logprobs or [])
        if echo is not None:
            token_ids = echo.token_ids + token_ids
            positions = self._prompt_logprobs[prompt_index] + positions
        return self._names.completion(token_ids, positions, offset)

    def _plain_prompt_logprobs(self, prompt_index: int) -> list[dict[str, Any] | None] | None:
        return plain_prompt_logprobs(self._prompt_logprobs.get(prompt_index))


def plain_prompt_logprobs(found: Sequence[PositionLogprobs | None] | None) -> list[dict[str, Any] | None] | None:
    """Return prompt logprobs as vLLM writes them: by token id, with rank and text."""
    if found is None:
        return None
    return [
        None if position is None else {str(token_id): msgspec.to_builtins(item) for token_id, item in position.items()}
        for position in found
    ]


def _without_tokens(output: RequestOutput) -> RequestOutput:
    """Return the output of a request that wanted its prompt only, without the token that the engine makes anyway."""
    bare = [
        msgspec.structs.replace(item, text="", token_ids=[], logprobs=[], finish_reason="length", stop_reason=None)
        for item in output.outputs
    ]
    return msgspec.structs.replace(output, outputs=bare)
