"""Which provider serves each op of a model: built on the meta device, so that no weight takes memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from quire.backend.contract import KernelRequest
from quire.backend.kernels import KernelPlugin
from quire.backend.manager import open_to_plan
from quire.bench.shapes import open_model
from quire.execution.memory import choose_dtype
from quire.models import registry
from quire.models.context import ModelContext
from quire.models.spec import ModelSpec
from quire.ops.records import OPS
from quire.ops.table import KernelTable, Resolution


class KernelReport(NamedTuple):
    """`resolutions` are the answers that ops of the model and of a step were given, each different answer once;
    `unused` are the providers, best first, of ops that this model does not ask for."""

    title: str
    resolutions: list[Resolution]
    unused: dict[str, list[str]]
    plugins: tuple[KernelPlugin, ...]


BESIDE_THE_MODEL = {
    "gather_step": "float32",
    "select_rows": None,
    "draw_tokens": "float32",
    "apply_penalties": "float32",
    "block_copy": None,
}
"""What the executor binds, in which dtype; None: the model's."""


def resolve_kernels(model: str, backend_name: str | None, dtype: str | None) -> KernelReport:
    """Resolve every op that `model` (a folder, a name, or a built-in shape) asks for.

    Raises BackendError, ModelError, KernelError; ConfigError for a dtype that the backend does not have.
    """
    backend = open_to_plan(backend_name)
    table = backend.create_table(OPS)
    with open_model(model) as bench_model:
        spec = registry.read_spec(bench_model.path)
        chosen = choose_dtype(dtype or "auto", spec.dtype, backend.caps.dtypes)
        _build(table, bench_model.path, spec, chosen, backend.kv_constraints(spec).block_sizes[0])
    for op, op_dtype in BESIDE_THE_MODEL.items():
        table.resolve(KernelRequest(op, op_dtype or chosen))
    title = f"{bench_model.name} in {chosen} on {backend.name}"
    return KernelReport(title, _distinct(table.resolutions), _unused(table), backend.kernel_plugins)


def _build(table: KernelTable, path: Path, spec: ModelSpec, dtype: str, block_size: int) -> None:
    meta = torch.device("meta")

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=meta)

    registry.build(path, spec, ModelContext(table, getattr(torch, dtype), meta, allocate, block_size=block_size))


def _distinct(resolutions: list[Resolution]) -> list[Resolution]:
    different = {(item.request.op, item.request.dtype, item.provider, item.passed_over): item for item in resolutions}
    return sorted(different.values(), key=lambda item: item.request.op)


def _unused(table: KernelTable) -> dict[str, list[str]]:
    used = {item.request.op for item in table.resolutions}
    return {op: table.providers(op) for op in sorted(table.ops) if op not in used}
