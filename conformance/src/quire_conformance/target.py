"""The backend under test: opened once, as users open it, with the models and settings that the suite brings.

Tests get it as the fixture `target`. Everything goes through `quire.backend.manager`, as in an engine; the reference
backend is a target too, to compare with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from quire.backend.contract import BackendCaps, ConformanceProfile, Device, Executor, ExecutorContext, KVConstraints
from quire.backend.manager import OpenBackend, build_executor, open_backend, select
from quire.config import EngineConfig, make_config
from quire.engine import Engine
from quire.llm import LLM
from quire.models import registry
from quire.models.spec import ModelSpec
from quire.opening import start_engine
from quire.ops.records import OPS
from quire.ops.table import KernelTable
from quire.outputs import RequestOutput
from quire.sampling import SamplingParams
from quire_conformance.checkpoints import write_checkpoint
from quire_conformance.settings import Settings

T = TypeVar("T")
MAX_MODEL_LEN = 16  # blocks
SERVED_TOGETHER = 8


class Ask(NamedTuple):
    """One request of a workload."""

    prompt: tuple[int, ...]
    params: SamplingParams


@dataclass(frozen=True)
class Opened:
    """A running engine, and what it was built from."""

    engine: Engine
    executor: Executor
    context: ExecutorContext
    llm: LLM

    def ask(self, asks: Sequence[Ask]) -> list[RequestOutput]:
        """Serve all of them together and return the outputs in order."""
        prompts = [{"prompt_token_ids": list(ask.prompt)} for ask in asks]
        return self.llm.generate(prompts, [ask.params for ask in asks], use_tqdm=False)


class Target:
    """One backend as its `conformance.toml` asks for it."""

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        self.settings = settings
        self.stale_failures: list[str] = []
        """Ids in the profile's expected failures that name no test; set when everything was collected."""
        self._owned = None if folder is not None else tempfile.TemporaryDirectory(prefix="quire-conformance-")
        self.folder = folder if folder is not None else Path(self._owned.name)  # type: ignore[union-attr]
        self._remembered: dict[str, Any] = {}
        torch.set_num_threads(settings.threads)

    @property
    def name(self) -> str:
        return self.settings.backend

    @cached_property
    def backend(self) -> OpenBackend:
        """The opened backend. Raise BackendError, ConfigError if it does not open."""
        return open_backend(select(self.name, self.settings.options))

    @property
    def caps(self) -> BackendCaps:
        return self.backend.caps

    @property
    def profile(self) -> ConformanceProfile:
        return self.backend.profile

    @property
    def levels(self) -> tuple[int, ...]:
        """Return the levels to run: those asked for, or those that the backend claims."""
        return self.settings.levels if self.settings.levels is not None else tuple(sorted(self.profile.levels))

    @cached_property
    def device(self) -> Device:
        device = self.backend.open_device()
        torch.set_num_threads(self.settings.threads)  # a device of processors may have chosen more
        return device

    @cached_property
    def table(self) -> KernelTable:
        """All kernels as an engine would have them."""
        return self.backend.create_table(OPS)

    @property
    def own_executor(self) -> bool:
        """Whether the backend runs models without the core's ops, as one written in another framework does."""
        return self.backend.has_hook("quire_create_executor") and not self.backend.has_hook("quire_register_kernels")

    @cached_property
    def reference(self) -> Target:
        """The reference backend, with the same models."""
        return Target(Settings("reference", threads=self.settings.threads), self.folder)

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` made for this key, now or in an earlier test."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]  # type: ignore[no-any-return]

    # -- models and configs --------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> str:
        """Return the dtype to compare tokens in: float32 where it is claimed."""
        return "float32" if "float32" in self.caps.dtypes else self.caps.dtypes[0]

    def model(self, model: str = "llama") -> Path:
        """Return the folder of one of the suite's models."""
        return write_checkpoint(self.folder, model)

    def spec(self, model: str = "llama") -> ModelSpec:
        return registry.read_spec(self.model(model))

    @cached_property
    def kv(self) -> KVConstraints:
        return self.backend.kv_constraints(self.spec())

    @property
    def block_size(self) -> int:
        """Return the block size that the backend prefers; lengths in workloads are multiples of it."""
        return self.kv.block_sizes[0]

    def config(self, model: str = "llama", **settings: Any) -> EngineConfig:
        """Return settings for the suite's models: plain, unless told otherwise."""
        plain: Mapping[str, Any] = {
            "model": str(self.model(model)),
            "backend": self.name,
            "backend_options": self.settings.options,
            "dtype": self.dtype,
            "block_size": self.block_size,
            "max_model_len": MAX_MODEL_LEN * self.block_size,
            "max_num_seqs": SERVED_TOGETHER,
            "max_num_batched_tokens": 2 * MAX_MODEL_LEN * self.block_size,
            "num_blocks": SERVED_TOGETHER * MAX_MODEL_LEN + self.kv.reserved_blocks,
            "enable_prefix_caching": False,
            "overlap": False,
        }
        return make_config({**plain, **settings})

    # -- running -------------------------------------------------------------------------------------------------------

    def build(self, model: str = "llama", **settings: Any) -> tuple[Executor, ExecutorContext]:
        """Return an executor that has not been started."""
        built = build_executor(self.config(model, **settings))
        torch.set_num_threads(self.settings.threads)
        return built

    @contextmanager
    def open(self, model: str = "llama", **settings: Any) -> Iterator[Opened]:
        """Open an engine; at its end nothing of the requests may be left in it."""
        with self.running(*self.build(model, **settings)) as opened:
            yield opened

    @contextmanager
    def running(self, executor: Executor, context: ExecutorContext) -> Iterator[Opened]:
        """Do the same with an executor that was built before."""
        engine = start_engine(executor, context)
        opened = Opened(engine, executor, context, LLM.from_engine(engine))
        try:
            yield opened
            if opened.engine.death is None:
                opened.engine.drain()
                opened.engine.check_integrity()
        finally:
            opened.engine.shutdown()

    def serve(self, asks: Sequence[Ask], model: str = "llama", **settings: Any) -> list[RequestOutput]:
        """Open an engine, serve the requests together, close it."""
        with self.open(model, **settings) as opened:
            return opened.ask(asks)

    def tokens(self, asks: Sequence[Ask], model: str = "llama", **settings: Any) -> list[list[int]]:
        """Do the same, and return the token ids of every completion, request after request."""
        return completions(self.serve(asks, model, **settings))


def completions(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    """Return the token ids of every completion, request after request."""
    return [list(completion.token_ids) for output in outputs for completion in output.outputs]
