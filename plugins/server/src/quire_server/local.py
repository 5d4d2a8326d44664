"""Open an engine in this process."""

from __future__ import annotations

from quire.async_llm import AsyncLLM
from quire.config import EngineConfig
from quire.opening import open_with_context
from quire_server.engine_client import LocalEngine


def open_local(config: EngineConfig, stream_interval: int = 1) -> LocalEngine:
    """Build and start an engine on a thread of this process. Raise as `open_engine` does."""
    engine, context = open_with_context(config)
    return LocalEngine(AsyncLLM.from_engine(engine), context, stream_interval)
