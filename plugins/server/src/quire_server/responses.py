"""/v1/responses: OpenAI's newer route. Answers are kept for a while, so that they can be fetched and gone on from."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from quire.errors import RequestError
from quire.intake import Prompt
from quire.outputs import RequestOutput
from quire.sampling import OutputKind, SamplingParams
from quire_server import schemas
from quire_server.deadlines import Deadline
from quire_server.errors import ApiError, as_api_error
from quire_server.events import EventStream, event, json_response, open_stream, while_connected
from quire_server.frontend import Frontend
from quire_server.requests import Message, ResponsesRequest
from quire_server.sampling import NOT_SERVED
from quire_server.usage import Usage

MAX_KEPT = 1000  # answers; the oldest goes first
NUM_OPENING = 4  # events before the first of the text


class Kept:
    """An answer that can be fetched: what it says now, the conversation so far, and the task that writes it."""

    def __init__(self, job: ResponsesJob) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None


class Store:
    """The answers of the last while, by id."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def add(self, job: ResponsesJob) -> Kept:
        kept = self._kept[job.id] = Kept(job)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept

    def get(self, response_id: str, param: str = "response_id") -> Kept:
        """Return an answer. Raise ApiError where there is none of that id."""
        if response_id not in self._kept:
            message = f"there is no response {response_id!r}; the last {MAX_KEPT} are kept, unless store was false"
            raise ApiError(404, message, param=param, code="response_not_found")
        return self._kept[response_id]


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router, store = APIRouter(), Store()

    @router.post("/v1/responses", responses=schemas.answers(schemas.ResponseObject, *schemas.ASKED, stream=True))
    async def create(request: ResponsesRequest, http: Request) -> Response:
        """Answer a text or a conversation."""
        job = await ResponsesJob.open(frontend, store, request, http)
        deadline = frontend.deadline(http, request.timeout)
        if request.background:
            kept = store.add(job)
            kept.task = asyncio.create_task(job.run_alone(deadline))
            return follow(job, 0) if request.stream else json_response(job.describe())
        if request.stream:
            answer: Response = await open_stream(http, job.stream(), deadline, done=b"", tell=job.tell_error)
        else:
            await while_connected(http, job.run(), deadline)
            answer = json_response(job.describe())
        if request.store:
            store.add(job)
        return answer

    @router.get("/v1/responses/{response_id}", responses=schemas.answers(schemas.ResponseObject, 404, stream=True))
    async def get(
        response_id: str, stream: bool = False, starting_after: Annotated[int | None, Query(ge=0)] = None
    ) -> Response:
        """Return an answer as it is now; or stream it from its beginning, or behind an event, to its end."""
        job = store.get(response_id).job
        if stream:
            return follow(job, 0 if starting_after is None else starting_after + 1)
        if starting_after is not None:
            message = "starting_after is given and stream is not true; leave it out, or set stream to true"
            raise ApiError(400, message, param="starting_after", code="invalid_value")
        return json_response(job.describe())

    @router.post("/v1/responses/{response_id}/cancel", responses=schemas.answers(schemas.ResponseObject, 404))
    async def cancel(response_id: str) -> Response:
        """End an answer that is written in the background."""
        kept = store.get(response_id)
        if kept.task is None:
            raise ApiError(400, "only a response with background true can be cancelled", code="not_background")
        kept.task.cancel()
        await asyncio.gather(kept.task, return_exceptions=True)
        kept.job.end_early()
        return json_response(kept.job.describe())

    return router


def follow(job: ResponsesJob, number: int) -> Response:
    """Return a stream of an answer that is written elsewhere, from an event on. It goes on if the reader leaves."""
    return EventStream(b"", job.follow(number), done=b"", tell=job.tell_error)


class ResponsesJob:
    """One call of the route: its prompt, its parameters, and the answer as far as it has come."""

    def __init__(
        self,
        frontend: Frontend,
        request: ResponsesRequest,
        turns: list[Message],
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
    ) -> None:
        self.id = f"resp_{request_id}"
        self.usage = Usage(len(prompt.token_ids), params)
        self._frontend = frontend
        self._request = request
        self._turns = turns
        self._prompt = prompt
        self._params = params
        self._item_id = f"msg_{request_id}"
        self._created = int(time.time())
        self._status = "queued" if request.background else "in_progress"
        self._error: dict[str, Any] | None = None
        self._deltas: list[str] = []  # the text as it came: all events can be told again from it
        self._news = asyncio.Event()  # set when there is more to tell, and then replaced

    @classmethod
    async def open(cls, frontend: Frontend, store: Store, request: ResponsesRequest, http: Request) -> ResponsesJob:
        """Read and check everything. Raise ApiError, RequestError."""
        frontend.check_model(request.model)
        _refuse_unserved(request)
        turns = read_input(request.input)
        if request.previous_response_id is not None:
            turns = store.get(request.previous_response_id, "previous_response_id").job.conversation() + turns
        spoken = [Message(role="system", content=request.instructions)] if request.instructions else []
        prompt = await frontend.read_chat([*spoken, *turns])
        params = _params(request, frontend.defaults)
        params = frontend.fit(prompt, params, limit_given=request.max_output_tokens is not None)
        job = cls(frontend, request, turns, prompt, params, http.state.request_id)
        http.state.usage = job.usage
        return job

    def conversation(self) -> list[Message]:
        """Return what was said, this answer included."""
        return [*self._turns, Message(role="assistant", content=self._text)]

    async def run(self) -> None:
        """Write the answer. Raise what ends it early."""
        async with aclosing(self._outputs()) as outputs:
            async for _ in outputs:
                pass

    async def run_alone(self, deadline: Deadline) -> None:
        """Write the answer with nobody waiting: an error becomes its status."""
        try:
            async with asyncio.timeout_at(deadline.at):
                await self.run()
        except TimeoutError:
            self._fail(deadline.error())
        except Exception as error:
            self._fail(as_api_error(error))

    def end_early(self) -> None:
        """Note that nobody goes on writing the answer."""
        if not self._is_over:
            self._status = "cancelled"
            self._tell_news()

    async def stream(self) -> AsyncGenerator[bytes]:
        """Write the answer and yield it as events."""
        number = 0
        async with aclosing(self._outputs()) as outputs:
            async for _ in outputs:
                for each in self._events_from(number):
                    number += 1
                    yield each

    async def follow(self, number: int) -> AsyncGenerator[bytes]:
        """Yield the events from a number on, as somebody else writes the answer."""
        is_over = False
        while not is_over:
            is_over, news = self._is_over, self._news
            for each in self._events_from(number):
                number += 1
                yield each
            if not is_over:
                await news.wait()

    def tell_error(self, error: ApiError) -> bytes:
        """Return the event that ends a stream which fails."""
        self._fail(error)
        return self._ending()[0]

    def describe(self) -> dict[str, Any]:
        """Return the answer as it is now."""
        request = self._request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": self._status,
            "background": request.background,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self._frontend.check_model(request.model),
            "output": [self._item()] if self._deltas or self._status in ("completed", "incomplete") else [],
            "parallel_tool_calls": request.parallel_tool_calls,
            "previous_response_id": request.previous_response_id,
            "store": request.store,
            "temperature": self._params.temperature,
            "text": request.text or {"format": {"type": "text"}},
            "tool_choice": request.tool_choice,
            "tools": request.tools,
            "top_p": self._params.top_p,
            "truncation": request.truncation or "disabled",
            "usage": self._usage() if self._is_over else None,
        }

    async def _outputs(self) -> AsyncGenerator[RequestOutput]:
        """Yield deltas, keeping account of them."""
        self._status = "in_progress"
        try:
            async with aclosing(self._frontend.generate(self._prompt, self._params)) as outputs:
                async for output in outputs:
                    self.usage.note(0, output)
                    if delta := output.outputs[0].text:
                        self._deltas.append(delta)
                    if output.finished:
                        self._status = "incomplete" if output.outputs[0].finish_reason == "length" else "completed"
                    self._tell_news()
                    yield output
        finally:
            self.end_early()

    # -- events: which there are, and what they say, follows from the deltas and the status --------------------------

    def _events_from(self, number: int) -> list[bytes]:
        """Return the events from a number on that can be told by now."""
        events = self._opening()[number:] if number < NUM_OPENING else []
        for index in range(max(number - NUM_OPENING, 0), len(self._deltas)):
            delta = {"delta": self._deltas[index], "logprobs": []}
            events.append(self._event(NUM_OPENING + index, "response.output_text.delta", **self._place, **delta))
        if self._is_over:
            events += self._ending()[max(number - NUM_OPENING - len(self._deltas), 0) :]
        return events

    def _opening(self) -> list[bytes]:
        item = {**self._item(), "status": "in_progress", "content": []}
        part = {**self._part(), "text": ""}
        unknown: dict[str, Any] = {"output": [], "usage": None, "error": None, "incomplete_details": None}
        before = {**self.describe(), "status": "in_progress", **unknown}
        return [
            self._event(0, "response.created", response=before),
            self._event(1, "response.in_progress", response=before),
            self._event(2, "response.output_item.added", output_index=0, item=item),
            self._event(3, "response.content_part.added", **self._place, part=part),
        ]

    def _ending(self) -> list[bytes]:
        """Return the last events; a cancelled answer has none, for OpenAI has no name for it."""
        number = NUM_OPENING + len(self._deltas)
        if self._status == "cancelled":
            return []
        if self._status == "failed":
            return [self._event(number, "response.failed", response=self.describe())]
        return [
            self._event(number, "response.output_text.done", **self._place, text=self._text, logprobs=[]),
            self._event(number + 1, "response.content_part.done", **self._place, part=self._part()),
            self._event(number + 2, "response.output_item.done", output_index=0, item=self._item()),
            self._event(number + 3, f"response.{self._status}", response=self.describe()),
        ]

    def _event(self, number: int, name: str, **fields: Any) -> bytes:
        return event({"type": name, "sequence_number": number, **fields}, name)

    def _tell_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _fail(self, error: ApiError) -> None:
        self._status, self._error = "failed", {"code": "server_error", "message": str(error)}
        self._tell_news()

    # -- its parts -----------------------------------------------------------------------------------------------------

    @property
    def _is_over(self) -> bool:
        return self._status not in ("queued", "in_progress")

    @property
    def _text(self) -> str:
        return "".join(self._deltas)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self) -> dict[str, Any]:
        status = "completed" if self._status == "completed" else "incomplete"
        about = {"id": self._item_id, "type": "message", "role": "assistant", "status": status}
        return {**about, "content": [self._part()]}

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _usage(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "input_tokens": usage.num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.num_cached_tokens},
            "output_tokens": usage.num_output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.num_prompt_tokens + usage.num_output_tokens,
        }


def read_input(given: str | list[dict[str, Any]]) -> list[Message]:
    """Return the turns of an input. Raise RequestError on what is no message."""
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    turns = []
    for item in given:
        role, content = item.get("role"), item.get("content")
        is_message = item.get("type", "message") == "message"
        if not (is_message and isinstance(role, str) and isinstance(content, str | list)):
            raise RequestError(f"input holds an item of type {item.get('type')!r}; messages are served", param="input")
        turns.append(Message(role=role, content=content))
    if not turns:
        raise RequestError("input is empty; give a text or at least one message", param="input")
    return turns


def _params(request: ResponsesRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    names = ("temperature", "top_p", "top_k", "seed")
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    limit = request.max_output_tokens if request.max_output_tokens is not None else defaults.get("max_tokens")
    return SamplingParams(**{**defaults, **given, "max_tokens": limit, "output_kind": OutputKind.DELTA})


def _refuse_unserved(request: ResponsesRequest) -> None:
    wanted = ((request.text or {}).get("format") or {"type": "text"}).get("type")
    checks = (
        ("text", wanted != "text", f"text.format {wanted!r} {NOT_SERVED}; leave it out and check the text yourself"),
        ("tools", request.tools and request.tool_choice != "none", f"calling tools {NOT_SERVED}; leave them out"),
        ("truncation", request.truncation == "auto", f"truncation {NOT_SERVED}; send what fits the context"),
        ("include", request.include, f"include {NOT_SERVED}; leave it out"),
    )
    for param, is_wanted, problem in checks:
        if is_wanted:
            raise ApiError(400, problem, param=param, code="unsupported")
