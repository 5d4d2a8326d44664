"""Open a backend and build an executor on it.

`open_backend` imports the one plugin that `select` chose, checks its hooks, and returns an `OpenBackend`: the plugin's
hooks with the core's defaults behind them and every answer type-checked. Nothing here runs in a step, and nothing here
imports torch for a backend that needs none: the defaults, which do, are imported when one is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from quire.backend import claims, discovery, hooks, hookspecs
from quire.backend.contract import (
    Absent,
    Allocator,
    BackendCaps,
    Communicator,
    ConfigChange,
    ConformanceProfile,
    Device,
    Executor,
    ExecutorContext,
    KVConstraints,
    ProgramBuilder,
    Selection,
)
from quire.backend.discovery import Candidate
from quire.backend.kernels import KernelPlugin, fill_table, find_kernel_plugins
from quire.backend.selection import named, select
from quire.config import EngineConfig
from quire.config import resolve as apply_changes
from quire.errors import BackendError

if TYPE_CHECKING:
    from quire.models.spec import ModelSpec
    from quire.ops.spec import Op
    from quire.ops.table import KernelTable
    from quire.sampling import SamplingParams

T = TypeVar("T")

__all__ = ["BuiltExecutor", "OpenBackend", "build_executor", "open_backend", "open_to_plan", "select", "settle"]


class Settled(NamedTuple):
    """The model's shape, the config as it will run, and what was changed in it."""

    spec: ModelSpec
    config: EngineConfig
    changes: tuple[ConfigChange, ...]


class BuiltExecutor(NamedTuple):
    """An executor that has not been started, and what it was built from."""

    executor: Executor
    context: ExecutorContext


def build_executor(config: EngineConfig) -> BuiltExecutor:
    """Choose the backend, read the model's shape, settle the config, open the device, and build the executor.

    Raises BackendError, ConfigError or ModelError. Weights are loaded by the executor's `start`.
    """
    backend = open_backend(select(config.backend, config.backend_options))
    spec, config, changes = settle(config, backend)
    device, table = backend.open_device(0), backend.create_table(_ops_for(backend))
    context = ExecutorContext(config, spec, backend.selection, backend.caps, device, backend.hooks, table, changes)
    return BuiltExecutor(backend.create_executor(context), context)


def settle(config: EngineConfig, backend: OpenBackend) -> Settled:
    """Read the model's shape and apply the settings that the backend needs otherwise.

    Raises ModelError, also when the model needs a feature that the backend does not claim.
    """
    from quire.models import registry, resolve

    spec = registry.read_spec(resolve.resolve_path(config.model, config.revision), config.trust_remote_code)
    claims.check_model(spec, backend)
    unclaimed = claims.changes(config, spec, backend.caps)
    return Settled(spec, *apply_changes(config, (*unclaimed, *backend.resolve_config(config))))


def open_to_plan(name: str | None, options: Mapping[str, str] | None = None) -> OpenBackend:
    """Open a backend to ask what it could do: one that is installed will do, though its device is absent.

    Raises BackendError when it is broken, not installed, not allowed, or cannot be imported here.
    """
    candidates = discovery.discover(only=name) if name is not None else ()
    if len(candidates) == 1 and isinstance(candidates[0].outcome, Absent):
        selection = Selection(candidates[0].name, {}, f"only to plan: {candidates[0].reason}", dict(options or {}))
        return _open(selection, candidates[0], None)
    return open_backend(select(name, options))


def open_backend(selection: Selection, allow: Collection[str] | None = None) -> OpenBackend:
    """Import the chosen plugin, check its hooks and ask what it can do.

    Raises BackendError naming the hook that is missing, unknown, unmarked, raises, or answers with a wrong type.
    """
    return _open(selection, named(selection.name, discovery.discover(allow, only=selection.name)).winner, allow)


def _open(selection: Selection, candidate: Candidate, allow: Collection[str] | None) -> OpenBackend:
    who = f"backend {selection.name!r}"
    relay = hooks.relay(who, candidate.plugin, hookspecs.REQUIRED_HOOKS)
    caps = hooks.ask(who, relay, "quire_describe", BackendCaps, selection=selection)
    profile = hooks.ask(who, relay, "quire_conformance_profile", ConformanceProfile)
    return OpenBackend(selection, caps, relay, profile, find_kernel_plugins(selection.name, allow))


@dataclass(frozen=True, slots=True)
class OpenBackend:
    """A backend that is in use: what it claims, and its hooks with the core's defaults behind them.

    `hooks` is pluggy's relay with this one plugin on it. `kernel_plugins` are the extra kernel plugins found, used or
    not. Every method raises BackendError naming the hook, when the plugin raises or answers with a wrong type.
    """

    selection: Selection
    caps: BackendCaps
    hooks: Any
    profile: ConformanceProfile
    kernel_plugins: tuple[KernelPlugin, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.selection.name

    def open_device(self, rank: int = 0) -> Device:
        """Open device number `rank`."""
        return hooks.ask(self._who, self.hooks, "quire_open_device", Device, selection=self.selection, rank=rank)

    def kv_constraints(self, spec: ModelSpec) -> KVConstraints:
        """Return what the KV cache of this model may look like."""
        return hooks.ask(self._who, self.hooks, "quire_kv_constraints", KVConstraints, model=spec)

    def create_allocator(self, device: Device) -> Allocator:
        """Return the backend's allocator, or torch's own."""
        made = self._optional("quire_create_allocator", Allocator, device=device)
        if made is None:
            from quire.backend.defaults import create_allocator

            made = create_allocator(device)
        return made

    def create_program_builder(self, device: Device) -> ProgramBuilder:
        """Return the backend's program builder, or the eager one."""
        made = self._optional("quire_create_program_builder", ProgramBuilder, device=device)
        if made is None:
            from quire.backend.defaults import create_program_builder

            made = create_program_builder()
        return made

    def create_communicator(self, group: Sequence[int], device: Device) -> Communicator:
        """Return the backend's collectives for these ranks, or gloo's."""
        made = self._optional("quire_create_communicator", Communicator, group=group, device=device)
        if made is None:
            from quire.backend.defaults import create_communicator

            made = create_communicator(group)
        return made

    def create_executor(self, context: ExecutorContext) -> Executor:
        """Return the backend's executor, or the core's TorchExecutor."""
        made = self._optional("quire_create_executor", Executor, context=context)
        if made is None:
            from quire.backend.defaults import create_executor

            made = create_executor(context, self)
        return made

    def create_table(self, ops: Iterable[Op]) -> KernelTable:
        """Return the kernels of the reference, then of the backend, then of the extra kernel plugins."""
        from quire.ops.table import KernelTable

        table = KernelTable(ops)
        if table.ops:
            fill_table(table, self.name, self.hooks, self.kernel_plugins)
        return table

    def has_hook(self, hook: str) -> bool:
        """Say whether the plugin fills in this hook."""
        return bool(getattr(self.hooks, hook).get_hookimpls())

    def resolve_config(self, config: EngineConfig) -> tuple[ConfigChange, ...]:
        """Return the settings that this backend needs otherwise."""
        patches = hooks.call(self._who, self.hooks, "quire_resolve_config", config=config, caps=self.caps)
        return tuple(_checked_change(self._who, change) for patch in patches for change in patch or ())

    def validate_request(self, params: SamplingParams) -> tuple[str, ...]:
        """Return the backend's reasons to refuse a request."""
        return tuple(hooks.reasons_against(self._who, self.hooks, params))

    def collect_env(self) -> Mapping[str, str]:
        """Return the backend's diagnostics, empty if it has none."""
        return self._optional("quire_collect_env", Mapping) or {}

    def collect_metrics(self) -> Mapping[str, float]:
        """Return the backend's own gauges, empty if it has none."""
        return self._optional("quire_collect_metrics", Mapping) or {}

    @property
    def _who(self) -> str:
        return f"backend {self.name!r}"

    def _optional(self, hook: str, kind: type[T], **arguments: Any) -> T | None:
        return hooks.ask_optional(self._who, self.hooks, hook, kind, **arguments)


def _ops_for(backend: OpenBackend) -> Iterable[Op]:
    """Return all ops, or none for a backend with its own executor and no kernels: the ops need torch, it may not."""
    if backend.has_hook("quire_create_executor") and not backend.has_hook("quire_register_kernels"):
        return ()
    from quire.ops.records import OPS

    return OPS


def _checked_change(who: str, answer: object) -> ConfigChange:
    change = hooks.expect(who, "quire_resolve_config", answer, ConfigChange)
    if change.field not in {item.name for item in fields(EngineConfig)}:
        raise BackendError(f"{who}: quire_resolve_config names {change.field!r}, which is no setting of EngineConfig")
    return change
