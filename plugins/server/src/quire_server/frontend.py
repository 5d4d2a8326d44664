"""Between the routes and the engine: prompts are read and checked here, so that the engine only computes.

Tokenising and templates run in this process: short texts at once, long ones and templates on another thread, so that
the event loop never waits long.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from fastapi import Request

from quire.async_llm import LONG_TEXT
from quire.errors import RequestError
from quire.intake import Intake, Pooling, Prompt
from quire.outputs import EmbeddingOutput, RequestOutput
from quire.sampling import SamplingParams
from quire.text.tokenizer import Tokenizer
from quire_server.deadlines import Deadline, read_deadline
from quire_server.engine_client import EngineClient
from quire_server.errors import ApiError
from quire_server.express import Express
from quire_server.gate import Gate
from quire_server.metrics import Metrics
from quire_server.requests import Message, PromptField
from quire_server.settings import ServerSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

T = TypeVar("T")
LIMIT = "this model's maximum context length is"
"""OpenAI's words, by which clients know that a prompt is too long."""


class Part(NamedTuple):
    """An output of one of the prompts of an HTTP request."""

    prompt: int  # its place among the prompts
    output: RequestOutput


class Frontend:
    """Serves HTTP requests with one engine. One event loop uses it."""

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer | None,
        settings: ServerSettings,
        metrics: Metrics,
        traces: TracerProvider | None = None,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.settings = settings
        self.metrics = metrics
        self.traces = traces
        self.gate = Gate(settings.retry_after_s)
        self.intake = Intake(
            max_model_len=client.info.max_model_len,
            max_logprobs=client.info.max_logprobs,
            vocab_size=client.info.vocab_size,
            tokenizer=tokenizer,
            validate=lambda params: (),  # the backend's own reasons come from the engine
        )
        self._numbers = itertools.count()

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What the model's makers advise for sampling."""
        return self.client.info.sampling

    def deadline(self, http: Request, asked: float | None) -> Deadline:
        """Return how long a request may take, whose body asks for `asked` seconds. Raise ApiError."""
        return read_deadline(http, asked, self.settings.request_timeout_s)

    def check_model(self, name: str | None) -> str:
        """Return the model's name for the answer. Raise ApiError where a client wants another."""
        known = self.settings.model_names
        if name is None or name in known:
            return name or known[0]
        message = f"there is no model {name!r} here; this server has {', '.join(known)}"
        raise ApiError(404, message, param="model", code="model_not_found")

    # -- prompts -------------------------------------------------------------------------------------------------------

    async def read_prompts(
        self, field: PromptField, *, cache_salt: str | None = None, add_special_tokens: bool | None = None
    ) -> list[Prompt]:
        """Return one prompt or many, given as text or token ids. Raise RequestError, ApiError."""
        items = split_prompts(field)
        special = True if add_special_tokens is None else add_special_tokens
        read = partial(self._read_all, items, cache_salt or "", special)
        return await off_loop(read, sum(len(item) for item in items))

    def _read_all(self, items: Sequence[str | list[int]], cache_salt: str, special: bool) -> list[Prompt]:
        return [self._read_one(item, cache_salt, special) for item in items]

    def _read_one(self, item: str | list[int], cache_salt: str, special: bool) -> Prompt:
        if not isinstance(item, str):
            return self.intake.read_prompt(item)._replace(cache_salt=cache_salt)
        token_ids = self.need_tokenizer("a text prompt").encode(item, add_special_tokens=special)
        return Prompt(item, token_ids, cache_salt)

    async def read_chat(self, messages: Sequence[Message], **options: Any) -> Prompt:
        """Return a conversation as a prompt, by the template of the request, the server or the model."""
        template = self._choose_template(options.pop("chat_template", None))
        plain = [plain_message(message) for message in messages]
        return await asyncio.to_thread(self.intake.read_chat, plain, chat_template=template, **options)

    def _choose_template(self, asked: str | None) -> str | None:
        """Return a template, or the name of one of the model's. Raise ApiError on one that is not trusted."""
        named = self.tokenizer.chat_templates if self.tokenizer is not None else {}
        if asked is None or asked in named:
            return asked or self.settings.chat_template
        if not self.settings.trust_request_chat_template:
            message = (
                "chat_template of a request is not trusted here; start the server with --trust-request-chat-template"
            )
            raise ApiError(400, message, param="chat_template", code="unsupported")
        return asked

    def check_count(self, num_prompts: int, n: int) -> None:
        """Raise ApiError where one request wants too much at once."""
        most = self.settings.max_sequences
        if num_prompts * n > most:
            message = (
                f"{num_prompts} prompts with n {n} are {num_prompts * n} completions; at most {most} are served at once"
            )
            raise ApiError(400, message, param="n" if n > 1 else "prompt", code="invalid_value")

    def need_tokenizer(self, what: str) -> Tokenizer:
        """Return the tokenizer. Raise ApiError where the model has none."""
        if self.tokenizer is None:
            raise ApiError(400, f"{what} needs a tokenizer, and the model has none; use token ids", code="unsupported")
        return self.tokenizer

    def fit(self, prompt: Prompt, params: SamplingParams, *, limit_given: bool) -> SamplingParams:
        """Return parameters that fit the context behind this prompt. Raise ApiError naming both numbers.

        A default limit shrinks to what is left; one that the client gave must fit.
        """
        longest, length = self.client.info.max_model_len, len(prompt.token_ids)
        room = longest - length
        if room < 1:
            message = f"the prompt has {length} tokens; {LIMIT} {longest} tokens, output included; shorten it"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
        if not limit_given:
            most = room if params.max_tokens is None else min(params.max_tokens, room)
            params = msgspec.structs.replace(params, max_tokens=most)
        elif params.max_tokens is not None and params.max_tokens > room:
            message = (
                f"the prompt has {length} tokens and max_tokens is {params.max_tokens}, together "
                f"{length + params.max_tokens}; {LIMIT} {longest} tokens; lower max_tokens to {room} or leave it out"
            )
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        self.intake.admit("", prompt, params, 0.0)
        return params

    # -- the engine ----------------------------------------------------------------------------------------------------

    async def generate(
        self, prompt: Prompt, params: SamplingParams, express: Express | None = None
    ) -> AsyncGenerator[RequestOutput]:
        """Yield one prompt's outputs, but for what goes by `express`, counted in the metrics. Raise what
        `EngineClient.generate` does, and ApiError where the request fails while it runs."""
        request_id = f"http-{next(self._numbers)}"
        with self.gate.enter():
            watch = self.metrics.watch(len(prompt.token_ids), params)
            if express is not None:
                express.count_in(watch)
            try:
                async with aclosing(self.client.generate(prompt, params, request_id, express)) as outputs:
                    async for output in outputs:
                        watch.note(output)
                        check_failure(output)
                        yield output
            finally:
                watch.end()

    async def generate_all(
        self, prompts: Sequence[Prompt], params: Sequence[SamplingParams], express: Express | None = None
    ) -> AsyncGenerator[Part]:
        """Yield the outputs of several prompts as they come; a single one's may go by `express`. Raise the first one's
        error; the others are aborted."""
        if len(prompts) == 1:
            async with aclosing(self.generate(prompts[0], params[0], express)) as outputs:
                async for output in outputs:
                    yield Part(0, output)
            return
        streams = [self.generate(prompt, each) for prompt, each in zip(prompts, params, strict=True)]
        async with aclosing(merge(streams)) as parts:
            async for part in parts:
                yield part

    async def embed(self, prompt: Prompt, pooling: Pooling) -> EmbeddingOutput:
        """Return one prompt's embedding. Raise as `EngineClient.embed`."""
        with self.gate.enter():
            return await self.client.embed(prompt, pooling, f"http-{next(self._numbers)}")


async def off_loop(work: Callable[[], T], size: int) -> T:
    """Return what `work` on a text, or on token ids, does: on a thread where their number says that it takes long."""
    return await asyncio.to_thread(work) if size > LONG_TEXT else work()


def split_prompts(field: PromptField) -> list[str | list[int]]:
    """Return one prompt or many as a list. Raise RequestError on an empty one."""
    if isinstance(field, str):
        return [field]
    if not field:
        raise RequestError("the prompt is empty; give at least one", param="prompt")
    if isinstance(field[0], int):
        return [field]
    return list(field)


def plain_message(message: Message) -> dict[str, Any]:
    """Return a message with its content as one text, which is what chat templates take. Raise ApiError."""
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":  # OpenAI's newer word for the same
        plain["role"] = "system"
    if isinstance(message.content, list):
        plain["content"] = "".join(_text_of(part) for part in message.content)
    plain.setdefault("content", "")
    return plain


def _text_of(part: Mapping[str, Any]) -> str:
    text = part.get("text")
    if part.get("type") not in ("text", "input_text", "output_text") or not isinstance(text, str):
        message = f"a content part of type {part.get('type')!r} cannot be served; this model takes text"
        raise ApiError(400, message, param="messages", code="unsupported")
    return text


def check_failure(output: RequestOutput) -> None:
    """Raise ApiError where one of the completions failed while it ran."""
    for completion in output.outputs:
        if completion.finish_reason == "error":
            raise ApiError(500, f"the request failed while it ran: {completion.stop_reason}", code="request_failed")


async def merge(streams: Sequence[AsyncGenerator[RequestOutput]]) -> AsyncGenerator[Part]:
    """Yield the outputs of several streams as they come; closing this closes them all."""
    queue: asyncio.Queue[Part | BaseException | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(index: int) -> None:
        try:
            async with aclosing(streams[index]) as outputs:
                async for output in outputs:
                    await queue.put(Part(index, output))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pump(index)) for index in range(len(streams))]
    num_open = len(tasks)
    try:
        while num_open:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
