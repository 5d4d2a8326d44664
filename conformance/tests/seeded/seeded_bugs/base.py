"""What all seeded bugs share: the reference backend, under another name, with kernels of its own where needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quire.backend.contract import ExecutorContext, Kernel
from quire.backend.hookspecs import hookimpl
from quire.backend.manager import OpenBackend
from quire.backend.reference import DTYPES, ReferenceBackend
from quire.execution.torch_executor import TorchExecutor
from quire.ops import reference

PROVIDER = "seeded"


class Seeded(ReferenceBackend):
    """The reference's hooks; `kernels` replace ops."""

    kernels: dict[str, Callable[..., Any]] = {}

    @hookimpl
    def quire_register_kernels(self, table):
        own = {"paged_attention": reference.paged_attention, "kv_write": reference.kv_write, **self.kernels}
        for op, function in own.items():
            table.register(Kernel(op, PROVIDER, function, DTYPES))


def with_kernel(op: str, function: Callable[..., Any]) -> type[Seeded]:
    """Return a backend whose kernel for one op is this."""
    return type("SeededKernel", (Seeded,), {"kernels": {op: function}})


def with_executor(make: type[TorchExecutor]) -> type[Seeded]:
    """Return a backend that runs models with this executor."""

    class SeededExecutor(Seeded):
        @hookimpl
        def quire_create_executor(self, context: ExecutorContext):
            return make(context, OpenBackend(context.selection, context.caps, context.hooks, None))

    return SeededExecutor
