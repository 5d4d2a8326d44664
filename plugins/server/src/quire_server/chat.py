"""/v1/chat/completions: a conversation is answered."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.intake import Prompt
from quire.outputs import CompletionOutput, RequestOutput
from quire.sampling import SamplingParams
from quire_server import schemas
from quire_server.completions import plain_prompt_logprobs
from quire_server.events import event, json_response, open_stream, while_connected
from quire_server.express import EventPatterns, Express
from quire_server.frontend import Frontend
from quire_server.logprobs import LogprobsFormat
from quire_server.requests import ChatRequest, Message
from quire_server.sampling import chat_params
from quire_server.usage import Usage


def make_router(frontend: Frontend) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", responses=schemas.answers(schemas.Chat, *schemas.ASKED, stream=True))
    async def chat(request: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        job = await ChatJob.open(frontend, request, http)
        deadline = frontend.deadline(http, request.timeout)
        if request.stream:
            return await open_stream(http, job.stream(), deadline, express=job.express)
        return json_response(await while_connected(http, job.collect(), deadline))

    return router


async def read_conversation(frontend: Frontend, request: ChatRequest) -> Prompt:
    """Return the conversation as a prompt. Raise RequestError, ApiError."""
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", request.reasoning_effort)
    prompt = await frontend.read_chat(
        request.messages,
        chat_template=request.chat_template,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        chat_template_kwargs=variables,
    )
    return prompt._replace(cache_salt=request.cache_salt or "")


class ChatJob:
    """One call of the route: its prompt, its parameters, and the answer as it comes."""

    def __init__(
        self, frontend: Frontend, request: ChatRequest, prompt: Prompt, params: SamplingParams, request_id: str
    ) -> None:
        self._frontend = frontend
        self._request = request
        self._prompt = prompt
        self._params = params
        self._begun: set[int] = set()
        self._names = LogprobsFormat(request.top_logprobs or 0, frontend.tokenizer, request.return_tokens_as_token_ids)
        self.usage = Usage(len(prompt.token_ids), params)
        self.express = Express(self._plain_event, self.usage)
        self._patterns = EventPatterns(self._text_event)
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": frontend.check_model(request.model),
        }

    @classmethod
    async def open(cls, frontend: Frontend, request: ChatRequest, http: Request) -> ChatJob:
        """Read and check everything. Raise ApiError, RequestError."""
        frontend.check_model(request.model)
        params = chat_params(request, frontend.defaults)
        frontend.check_count(1, params.n)
        prompt = await read_conversation(frontend, request)
        limited = request.max_tokens is not None or request.max_completion_tokens is not None
        params = frontend.fit(prompt, params, limit_given=limited)
        job = cls(frontend, request, prompt, params, http.state.request_id)
        http.state.usage = job.usage
        return job

    async def collect(self) -> dict[str, Any]:
        """Return the whole answer."""
        async with aclosing(self._outputs()) as outputs:
            output = [output async for output in outputs][-1]
        answer = {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(item) for item in output.outputs],
            "usage": self.usage.as_dict(),
        }
        if self._request.prompt_logprobs is not None:
            answer["prompt_logprobs"] = plain_prompt_logprobs(output.prompt_logprobs)
        return answer

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the answer as events."""
        async with aclosing(self._outputs()) as outputs:
            async for output in outputs:
                for item in output.outputs:
                    for delta in self._deltas(item):
                        yield event(self._chunk([delta], self._request.continuous_usage))
        if self._request.include_usage:
            yield event(self._chunk([], True))

    def _plain_event(self, index: int, text: str) -> bytes | None:
        """Return the event of a text that goes on with a choice, if that is all it says."""
        if self._request.continuous_usage or not text or index not in self._begun:
            return None
        return self._patterns.fill(index, text)

    def _text_event(self, index: int, text: str) -> bytes:
        return event(self._chunk(self._deltas(CompletionOutput(index=index, text=text, token_ids=[])), False))

    async def _outputs(self) -> AsyncGenerator[RequestOutput]:
        async with aclosing(self._frontend.generate(self._prompt, self._params, self.express)) as outputs:
            async for output in outputs:
                self.usage.note(0, output)
                yield output

    def _choice(self, item: CompletionOutput) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._echoed() + item.text, "refusal": None}
        return {"index": item.index, "message": message, **self._ending(item)}

    def _deltas(self, item: CompletionOutput) -> list[dict[str, Any]]:
        """Return what is new of a choice; the first time, who speaks comes before it."""
        deltas = []
        if item.index not in self._begun:
            self._begun.add(item.index)
            opening = {"role": "assistant", "content": self._echoed()}
            deltas.append({"index": item.index, "delta": opening, "logprobs": None, "finish_reason": None})
        content = {"content": item.text} if item.text else {}
        deltas.append({"index": item.index, "delta": content, **self._ending(item)})
        return deltas

    def _ending(self, item: CompletionOutput) -> dict[str, Any]:
        logprobs = None if item.logprobs is None else self._names.chat(item.token_ids, item.logprobs)
        return {"logprobs": logprobs, "finish_reason": item.finish_reason, "stop_reason": item.stop_reason}

    def _echoed(self) -> str:
        """Return the last message, where it is to be repeated."""
        if not self._request.echo:
            return ""
        last: Message = self._request.messages[-1]
        return last.content if isinstance(last.content, str) else ""

    def _chunk(self, choices: list[dict[str, Any]], with_usage: bool) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._request.include_usage:
            chunk["usage"] = self.usage.as_dict() if with_usage else None
        return chunk
