"""/admin: what an operator does while the server runs. Its own keys guard it; without one nobody may."""

from __future__ import annotations

import logging
from typing import Annotated, NoReturn

from fastapi import APIRouter, Query, Response

from quire_server import schemas
from quire_server.engine_client import Control
from quire_server.errors import ApiError
from quire_server.events import json_response
from quire_server.frontend import Frontend
from quire_server.gate import State
from quire_server.requests import LoraRequest

log = logging.getLogger(__name__)
Seconds = Annotated[float, Query(ge=0, le=86_400, allow_inf_nan=False)]
NO_LORAS = "LoRA adapters are not served by this version; merge the adapter into the model's weights and serve those"


def make_router(frontend: Frontend) -> APIRouter:
    """Return the routes."""
    router, operator = APIRouter(prefix="/admin", tags=["admin"]), Operator(frontend)
    states = schemas.answers(schemas.AdminState, 403, 409, 503)

    @router.get("/state", responses=states)
    async def state() -> Response:
        """Return whether the server serves, is paused or asleep, and how many requests are inside."""
        return operator.tell(0)

    @router.post("/pause", responses=states)
    async def pause() -> Response:
        """Schedule nothing more: streams stay open, requests that come wait."""
        return operator.tell(await operator.change("pause", ("serving", "paused"), "paused"))

    @router.post("/resume", responses=states)
    async def resume() -> Response:
        """Go on after a pause."""
        return operator.tell(await operator.change("resume", ("serving", "paused"), "serving"))

    @router.post("/sleep", responses=states)
    async def sleep(timeout: Seconds = 60.0) -> Response:
        """Refuse new requests, let those inside finish for `timeout` seconds, then give back the engine's memory."""
        return operator.tell(await operator.sleep(timeout))

    @router.post("/wake", responses=states)
    async def wake() -> Response:
        """Take the memory again, and serve."""
        return operator.tell(await operator.change("wake", ("serving", "asleep"), "serving"))

    @router.post("/cache/reset", responses=schemas.answers(schemas.ForgottenBlocks, 403, 503))
    async def reset_cache() -> Response:
        """Forget all cached prefixes; requests that run keep what they have."""
        return json_response({"num_blocks": await frontend.client.control("reset_cache")})

    @router.get("/loras", responses=schemas.answers(schemas.Loras, 403))
    async def loras() -> Response:
        """List the LoRA adapters that are loaded: none, since they are not served."""
        return json_response({"object": "list", "data": []})

    @router.post("/loras", responses=schemas.answers(schemas.Loras, 403, 415))
    async def load_lora(request: LoraRequest) -> Response:
        """Refuse: LoRA adapters are not served."""
        refuse_loras()

    return router


def refuse_loras() -> NoReturn:
    """Raise ApiError."""
    raise ApiError(400, NO_LORAS, param="name", code="unsupported")


class Operator:
    """Changes the server's state, and the engine's with it."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._gate = frontend.gate

    async def change(self, what: Control, before: tuple[State, ...], after: State) -> int:
        """Have the engine do something; return what it gave back. Raise ApiError in a state where that cannot be."""
        self._expect(what, before)
        given_back = await self._frontend.client.control(what)
        self._gate.state = after
        log.warning("%s: %s", what, after)
        return given_back

    async def sleep(self, seconds: float) -> int:
        """Drain, then sleep; return the bytes given back. Raise ApiError where requests do not end in time."""
        if self._gate.state == "asleep":
            return 0
        self._expect("sleep", ("serving",))
        self._gate.state = "falling asleep"
        try:
            if not await self._gate.wait_empty(seconds):
                message = f"{self._gate.num_inside} requests did not end within {seconds:g} s; give a longer timeout"
                raise ApiError(409, message, code="requests_inside")
            return await self.change("sleep", ("falling asleep",), "asleep")
        finally:
            if self._gate.state == "falling asleep":
                self._gate.state = "serving"

    def tell(self, given_back: int) -> Response:
        """Return the state as an answer; `given_back` are bytes."""
        gate = self._gate
        return json_response({"state": gate.state, "num_requests": gate.num_inside, "given_back_bytes": given_back})

    def _expect(self, what: Control, states: tuple[State, ...]) -> None:
        if self._gate.state not in states:
            message = f"the server is {self._gate.state}; {what} works while it is {' or '.join(states)}"
            raise ApiError(409, message, code="wrong_state")
