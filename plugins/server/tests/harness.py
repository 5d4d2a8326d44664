"""Servers in a thread of the test process, on a free port of 127.0.0.1, and one event loop for what tests ask them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import httpx2 as httpx
from rich.console import Console

from quire.config import make_config
from quire_server.engine_client import EngineClient
from quire_server.frontend import Frontend
from quire_server.local import open_local
from quire_server.remote import RemoteEngine
from quire_server.serving import Listening, Server, make_frontend, open_tokenizer
from quire_server.settings import ServerSettings

T = TypeVar("T")
Open = Callable[[], Coroutine[Any, Any, EngineClient]]
SMALL = {"num_blocks": 512, "max_num_seqs": 16}


class Running(NamedTuple):
    """A server that runs: its address, its insides, and its event loop."""

    url: str
    frontend: Frontend
    loop: asyncio.AbstractEventLoop

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        with self.http as http:
            return http.post(path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.http as http:
            return http.get(path, **options)

    def wait_until(self, what: Callable[[Any], bool], seconds: float = 20) -> None:
        """Wait until the engine's counters are so."""
        deadline = time.monotonic() + seconds
        while not what(self.do(self.frontend.client.stats())):
            assert time.monotonic() < deadline, self.do(self.frontend.client.stats())
            time.sleep(0.01)

    def check_rest(self) -> None:
        """Assert that nothing runs and no block is lost."""
        self.wait_until(lambda stats: stats.num_running == stats.num_waiting == 0 and stats.kv_usage == 0)
        self.do(self.frontend.client.check_integrity())


@contextmanager
def serving(
    open_client: Open, model: str = "demo", traces: Any = None, listening: Listening | None = None, **settings: Any
) -> Iterator[Running]:
    """Run a server in a thread for the length of a block."""
    box: dict[str, Any] = {}
    is_up = threading.Event()

    async def main() -> None:
        client = await open_client()
        tokenizer = open_tokenizer(make_config({"model": model}))
        frontend = make_frontend(client, tokenizer, ServerSettings(**{"model_names": (model,), **settings}))
        frontend.traces = traces
        server = Server(frontend, listening or Listening(port=0, drain_s=5), Console(quiet=True))
        box.update(server=server, frontend=frontend, loop=asyncio.get_running_loop())
        running = asyncio.create_task(server.serve())
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        is_up.set()
        await running

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            box["error"] = error
            is_up.set()

    thread = threading.Thread(target=run)
    thread.start()
    is_up.wait(120)
    if "error" in box:
        raise box["error"]
    try:
        yield Running(box["server"].url, box["frontend"], box["loop"])
    finally:
        box["loop"].call_soon_threadsafe(setattr, box["server"], "should_exit", True)
        thread.join(60)
    assert not thread.is_alive(), "the server does not stop"
    if "error" in box:
        raise box["error"]


def local_engine(backend: str | None = "null", stream_interval: int = 1, **settings: Any) -> Open:
    """Return what opens an engine in this process."""

    async def open_it() -> EngineClient:
        config = make_config({"model": "demo", "backend": backend, **SMALL, **settings})
        return await asyncio.to_thread(open_local, config, stream_interval)

    return open_it


def remote_engine(backend: str | None = "null", restarts: int = 0, stream_interval: int = 1, **settings: Any) -> Open:
    """Return what opens an engine in a process of its own."""
    given = {"model": "demo", "backend": backend, **SMALL, **settings}
    return lambda: RemoteEngine.open(make_config(given), restarts, stream_interval)


def slow(step_ms: float) -> dict[str, Any]:
    """Return settings that make the null backend take its time."""
    return {"backend_options": {"step_us": str(int(step_ms * 1000))}}


def read_events(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the data of all events, and check that the last says that it is."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
