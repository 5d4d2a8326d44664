"""The hooks, one by one. All are cold: called while building, never in a step.

A backend is a plugin object (module, class instance) with methods or functions of these names, each marked with
`hookimpl`. Required: `quire_describe`, `quire_open_device`, `quire_kv_constraints`, `quire_conformance_profile`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from quire.backend.contract import (
    Allocator,
    BackendCaps,
    Communicator,
    ConfigPatch,
    ConformanceProfile,
    Device,
    Executor,
    ExecutorContext,
    KernelRegistrar,
    KVConstraints,
    ProgramBuilder,
    Selection,
)

if TYPE_CHECKING:
    from quire.config import EngineConfig
    from quire.models.spec import ModelSpec
    from quire.sampling import SamplingParams

PROJECT = "quire"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

REQUIRED_HOOKS = ("quire_describe", "quire_open_device", "quire_kv_constraints", "quire_conformance_profile")


@hookspec(firstresult=True)
def quire_describe(selection: Selection) -> BackendCaps:  # type: ignore[empty-body]
    """Say what the chosen hardware can do. Raise ConfigError on an option that does not exist. Required."""


@hookspec(firstresult=True)
def quire_open_device(selection: Selection, rank: int) -> Device:  # type: ignore[empty-body]
    """Open device number `rank` of this process's share. Required."""


@hookspec(firstresult=True)
def quire_kv_constraints(model: ModelSpec) -> KVConstraints:  # type: ignore[empty-body]
    """Say what the KV cache of this model may look like. Required."""


@hookspec(firstresult=True)
def quire_conformance_profile() -> ConformanceProfile:  # type: ignore[empty-body]
    """Say what the conformance suite shall hold the backend to. Required."""


@hookspec(firstresult=True)
def quire_create_allocator(device: Device) -> Allocator:  # type: ignore[empty-body]
    """Return the allocator of weights, KV and workspace. Default: torch's own, on the device."""


@hookspec
def quire_register_kernels(table: KernelRegistrar) -> None:
    """Register kernels: `table.register(Kernel(...))`."""


@hookspec
def quire_register_weight_transforms(table: KernelRegistrar) -> None:
    """Register load-time repacking: `table.register_transform(WeightTransform(...))`."""


@hookspec(firstresult=True)
def quire_create_program_builder(device: Device) -> ProgramBuilder:  # type: ignore[empty-body]
    """Return what turns step functions into programs. Default: eager."""


@hookspec(firstresult=True)
def quire_create_executor(context: ExecutorContext) -> Executor:  # type: ignore[empty-body]
    """Return an executor of the backend's own. Default: the core's TorchExecutor."""


@hookspec(firstresult=True)
def quire_create_communicator(group: Sequence[int], device: Device) -> Communicator:  # type: ignore[empty-body]
    """Return collectives for these ranks. Default: gloo."""


@hookspec
def quire_resolve_config(config: EngineConfig, caps: BackendCaps) -> ConfigPatch:  # type: ignore[empty-body]
    """Return the settings that must be otherwise here, each with its reason."""


@hookspec
def quire_validate_request(params: SamplingParams) -> Sequence[str]:  # type: ignore[empty-body]
    """Return reasons to refuse a request, if any."""


@hookspec(firstresult=True)
def quire_collect_env() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return diagnostics for `quire doctor`: versions, drivers, chosen instruction set."""


@hookspec(firstresult=True)
def quire_collect_metrics() -> Mapping[str, float]:  # type: ignore[empty-body]
    """Return the backend's own gauges, by metric name."""
