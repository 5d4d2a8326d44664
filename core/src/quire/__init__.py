"""Quire: LLM inference and serving whose hardware is a plugin.

Names are loaded when they are first used: `import quire` itself costs next to nothing and imports no torch.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from quire.async_llm import AsyncLLM
    from quire.config import EngineConfig
    from quire.errors import (
        BackendError,
        CapacityError,
        ConfigError,
        EngineDeadError,
        KernelError,
        ModelError,
        QueueFullError,
        QuireError,
        RequestAborted,
        RequestError,
    )
    from quire.llm import LLM
    from quire.outputs import CompletionOutput, EmbeddingOutput, RequestOutput, ScoreOutput
    from quire.sampling import OutputKind, SamplingParams, StructuredOutputs

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "BackendError",
    "CapacityError",
    "CompletionOutput",
    "ConfigError",
    "EmbeddingOutput",
    "EngineConfig",
    "EngineDeadError",
    "KernelError",
    "ModelError",
    "OutputKind",
    "QueueFullError",
    "QuireError",
    "RequestAborted",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "ScoreOutput",
    "StructuredOutputs",
    "__version__",
]

_MODULES = {
    "LLM": "llm",
    "AsyncLLM": "async_llm",
    "EngineConfig": "config",
    "CompletionOutput": "outputs",
    "EmbeddingOutput": "outputs",
    "RequestOutput": "outputs",
    "ScoreOutput": "outputs",
    "OutputKind": "sampling",
    "SamplingParams": "sampling",
    "StructuredOutputs": "sampling",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
