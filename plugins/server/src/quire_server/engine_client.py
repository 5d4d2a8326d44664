"""The engine as the server sees it: a protocol, so that the engine may run in this process or in another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Literal, Protocol

import msgspec

from quire.async_llm import AsyncLLM
from quire.backend.contract import ExecutorContext
from quire.backend.hooks import ask_optional
from quire.engine import Engine
from quire.errors import EngineDeadError
from quire.intake import Pooling, Prompt
from quire.ops.table import Resolution
from quire.outputs import EmbeddingOutput, RequestOutput
from quire.sampling import SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire_server.express import Express
from quire_server.pacing import Pace
from quire_server.snapshot import Snapshot, take_snapshot

Control = Literal["pause", "resume", "sleep", "wake", "reset_cache"]
"""What an operator may ask of an engine while it serves."""


class KernelChoice(msgspec.Struct, frozen=True):
    """Who serves an op, in which dtype; `passed_over` are those that might have, with their reasons."""

    op: str
    dtype: str
    provider: str
    passed_over: list[str]


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine is, found out once when it opened. `sampling` are the defaults that the model's makers advise."""

    model: str
    backend: str
    device: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    max_logprobs: int
    block_size: int
    num_blocks: int
    kv_dtype: str
    prefix_caching: bool
    kernels: list[KernelChoice]
    sampling: dict[str, Any]

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * self.block_size


class EngineClient(Protocol):
    """An engine that is open. Its coroutines run in the server's event loop."""

    info: EngineInfo

    @property
    def death(self) -> EngineDeadError | None:
        """Why the engine stopped, or None while it lives."""

    def generate(
        self, prompt: Prompt, params: SamplingParams, request_id: str, express: Express | None = None
    ) -> AsyncGenerator[RequestOutput]:
        """Yield a request's outputs; closing the generator aborts the request. Raise as `AsyncLLM.generate`.

        What goes by `express`, if it is given and used, is not yielded.
        """

    async def embed(self, prompt: Prompt, pooling: Pooling, request_id: str) -> EmbeddingOutput:
        """Return a prompt's pooled hidden states. Raise as `AsyncLLM.embed`."""

    async def stats(self) -> SchedulerStats:
        """Return the engine's counters. Raise EngineDeadError."""

    async def gauges(self) -> dict[str, float]:
        """Return what the backend measures, by its own names. Raise BackendError where it fails, EngineDeadError."""

    async def snapshot(self) -> Snapshot:
        """Return which request owns which KV block now. Raise EngineDeadError."""

    async def control(self, what: Control) -> int:
        """Do it between two steps; return the bytes or blocks given back. Raise as `Engine.sleep`, EngineDeadError."""

    async def check_integrity(self) -> None:
        """Assert that no block or row is lost. For tests, and for an engine at rest."""

    async def close(self) -> None:
        """Abort all requests and stop the engine. May be called twice."""


class LocalEngine:
    """An engine on a thread of this process."""

    def __init__(self, llm: AsyncLLM, context: ExecutorContext, stream_interval: int = 1) -> None:
        self.info = describe_engine(llm.engine, context)
        self.llm = llm
        self._context = context
        self._stream_interval = stream_interval

    @property
    def death(self) -> EngineDeadError | None:
        return self.llm.death

    async def generate(
        self, prompt: Prompt, params: SamplingParams, request_id: str, express: Express | None = None
    ) -> AsyncGenerator[RequestOutput]:
        pace = Pace(self._stream_interval)
        async with aclosing(self.llm.generate(prompt, params, request_id)) as outputs:
            async for output in outputs:
                if (told := pace.add(output)) is not None:
                    yield told

    async def embed(self, prompt: Prompt, pooling: Pooling, request_id: str) -> EmbeddingOutput:
        return await self.llm.embed(prompt, pooling=pooling, request_id=request_id)

    async def stats(self) -> SchedulerStats:
        return await self.llm.stats()

    async def gauges(self) -> dict[str, float]:
        return await self.llm.call(lambda: read_gauges(self._context))

    async def snapshot(self) -> Snapshot:
        return await self.llm.call(lambda: take_snapshot(self.llm.engine))

    async def control(self, what: Control) -> int:
        return await self.llm.call(lambda: do_control(self.llm.engine, what))

    async def check_integrity(self) -> None:
        await self.llm.check_integrity()

    async def close(self) -> None:
        import asyncio

        await asyncio.to_thread(self.llm.close)


def do_control(engine: Engine, what: Control) -> int:
    """Do what an operator asks; return the bytes or blocks given back. Thread: the engine's."""
    match what:
        case "pause" | "resume":
            engine.is_paused = what == "pause"
        case "sleep":
            return engine.sleep()
        case "wake":
            engine.wake()
        case "reset_cache":
            return engine.scheduler.reset_prefix_cache()
    return 0


def read_gauges(context: ExecutorContext) -> dict[str, float]:
    """Return the backend's own gauges, none where it has no such hook. Raise BackendError. Thread: the engine's."""
    found = ask_optional(f"backend {context.selection.name!r}", context.hooks, "quire_collect_metrics", Mapping)
    return {str(name): float(value) for name, value in (found or {}).items()}


def describe_engine(engine: Engine, context: ExecutorContext) -> EngineInfo:
    """Return what there is to know about an open engine."""
    config, facts, resolutions = engine.config, engine.facts, context.table.resolutions
    return EngineInfo(
        model=config.model,
        backend=context.selection.name,
        device=context.device.name,
        dtype=_dtype_of("select_rows", resolutions, config.dtype),
        max_model_len=facts.max_model_len,
        max_num_seqs=config.max_num_seqs,
        vocab_size=context.spec.vocab_size,
        max_logprobs=config.max_logprobs,
        block_size=facts.block_size,
        num_blocks=facts.num_blocks - facts.reserved_blocks,
        kv_dtype=_dtype_of("block_copy", resolutions, config.kv_dtype),
        prefix_caching=config.enable_prefix_caching,
        kernels=list_kernels(resolutions),
        sampling=dict(engine.defaults.sampling),
    )


def _dtype_of(op: str, resolutions: Iterable[Resolution], asked: str) -> str:
    """Return the dtype in which an op was asked for, which is settled where the config may say "auto"."""
    return next((item.request.dtype for item in resolutions if item.request.op == op), asked)


def list_kernels(resolutions: Iterable[Resolution]) -> list[KernelChoice]:
    """Return what the kernel table answered, each different answer once, by op."""
    found = {
        (item.request.op, item.request.dtype, item.provider): KernelChoice(
            item.request.op,
            item.request.dtype,
            item.provider,
            [f"{other.provider}: {', '.join(other.reasons)}" for other in item.passed_over],
        )
        for item in resolutions
    }
    return [found[key] for key in sorted(found)]
