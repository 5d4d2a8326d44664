"""Who registers kernels: the reference, the backend, and the extra kernel plugins of group `quire.kernels`."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from quire.backend import discovery, hooks
from quire.backend.contract import Found, Kernel, WeightTransform
from quire.backend.discovery import Candidate
from quire.errors import BackendError

if TYPE_CHECKING:
    from quire.ops.table import KernelTable

log = logging.getLogger("quire.backend")

REFERENCE = "reference"
REFERENCE_MANIFEST = "quire.backend.reference_manifest"
KERNEL_HOOKS = ("quire_register_kernels", "quire_register_weight_transforms")


class KernelPlugin(NamedTuple):
    """An extra kernel plugin. Where it is not used, `hooks` is None and `reason` says why."""

    name: str
    distribution: str
    hooks: Any
    reason: str


def find_kernel_plugins(backend: str, allow: Collection[str] | None = None) -> tuple[KernelPlugin, ...]:
    """Return every installed extra kernel plugin; those for other backends, absent or broken ones with the reason."""
    return tuple(_kernel_plugin(candidate, backend) for candidate in discovery.discover_kernels(allow))


def fill_table(table: KernelTable, backend: str, relay: Any, extras: Sequence[KernelPlugin]) -> None:
    """Register the reference's kernels, the backend's, then the extras'.

    An extra plugin that fails is logged and left out as a whole; the backend's own failure raises BackendError.
    """
    if backend != REFERENCE:
        target = importlib.import_module(REFERENCE_MANIFEST).PLUGIN
        _collect(REFERENCE, hooks.relay("the reference", target, ())).apply(table)
    _collect(f"backend {backend!r}", relay).apply(table)
    for plugin in extras:
        if plugin.hooks is not None:
            _add_extra(plugin, table)


class Registrations:
    """A registrar that only remembers, so that a plugin that fails midway leaves nothing behind."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._kernels: list[Kernel] = []
        self._transforms: list[WeightTransform] = []

    def register(self, kernel: Kernel) -> None:
        self._kernels.append(hooks.expect(self._who, KERNEL_HOOKS[0], kernel, Kernel))

    def register_transform(self, transform: WeightTransform) -> None:
        self._transforms.append(hooks.expect(self._who, KERNEL_HOOKS[1], transform, WeightTransform))

    def apply(self, table: KernelTable) -> None:
        """Register all of it, or nothing: raise BackendError before the table is touched."""
        for kernel in self._kernels:
            if kernel.provider in table.providers(kernel.op) if kernel.op in table.ops else False:
                raise BackendError(f"{self._who}: provider {kernel.provider!r} has a kernel for {kernel.op!r} already")
        for target in (type(table)(table.ops.values()), table):
            for kernel in self._kernels:
                target.register(kernel)
            for transform in self._transforms:
                target.register_transform(transform)


def _collect(who: str, relay: Any) -> Registrations:
    collected = Registrations(who)
    for hook in KERNEL_HOOKS:
        hooks.call(who, relay, hook, table=collected)
    return collected


def _add_extra(plugin: KernelPlugin, table: KernelTable) -> None:
    try:
        _collect(f"kernel plugin {plugin.name!r}", plugin.hooks).apply(table)
    except BackendError as error:
        log.warning("%s is left out: %s", plugin.distribution, error)


def _kernel_plugin(candidate: Candidate, backend: str) -> KernelPlugin:
    reason = _reason_against(candidate, backend)
    if not reason:
        try:
            relay = hooks.relay(f"kernel plugin {candidate.name!r}", candidate.plugin, (), KERNEL_HOOKS)
            return KernelPlugin(candidate.name, candidate.distribution, relay, "")
        except BackendError as error:
            reason = f"broken: {error}"
            log.warning("%s is left out: %s", candidate.distribution, error)
    return KernelPlugin(candidate.name, candidate.distribution, None, reason)


def _reason_against(candidate: Candidate, backend: str) -> str:
    if not isinstance(candidate.outcome, Found):
        return f"{candidate.status}: {candidate.reason}"
    if candidate.backends and backend not in candidate.backends:
        return f"it is for {', '.join(candidate.backends)}, not {backend}"
    return ""
