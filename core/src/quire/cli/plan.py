"""`quire plan`: what a model will take of a backend's memory, by the arithmetic that the executor itself uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quire.cli.options import engine_options

if TYPE_CHECKING:
    from quire.backend.contract import KVConstraints
    from quire.backend.manager import OpenBackend, Settled
    from quire.bench.memory import MemoryFigures
    from quire.execution.memory import Footprint, MemoryPlan


class Planned(NamedTuple):
    """What was planned, for whom. `process_bytes` are what a process holds before there is an engine, where the model
    computes in host memory and the system tells."""

    backend: OpenBackend
    settled: Settled
    memory: MemoryPlan
    process_bytes: int | None


@engine_options
def plan(
    model: Annotated[str, typer.Argument(help="Model folder, installed model, Hugging Face id, or built-in shape.")],
    settings: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how much memory a model takes, how many tokens of KV fit, and how many requests: no device is needed.

    Without --memory the device of the backend is opened and asked what it has.
    """
    planned = make_plan(model, settings)
    if as_json:
        print(json.dumps(_plain(planned), indent=2))
    else:
        Console(highlight=False).print(_table(planned))


def make_plan(model: str, settings: dict[str, Any]) -> Planned:
    """Return the plan. Raise CapacityError when it does not fit, ConfigError, ModelError, BackendError."""
    from quire.backend.contract import MemoryModel
    from quire.backend.host_memory import give_back_freed, resident_bytes
    from quire.backend.manager import open_to_plan, settle
    from quire.bench.shapes import open_model
    from quire.config import make_config
    from quire.execution.memory import plan_memory

    with open_model(model) as found:
        config = make_config({**settings, "model": str(found.path)})
        backend = open_to_plan(config.backend, config.backend_options)
        settled = settle(config, backend)
        free = config.memory_bytes or _free_bytes(backend)
        kv = backend.kv_constraints(settled.spec)
        footprint = _footprint(backend, settled, kv)
        memory = plan_memory(settled.config, settled.spec, backend.caps, kv, free, footprint)
        give_back_freed()
        process = resident_bytes() if backend.caps.memory is MemoryModel.UNIFIED else None
        return Planned(backend, settled, memory, process)


def _free_bytes(backend: OpenBackend) -> int:
    """Return what the backend's device has. Raise BackendError where there is none."""
    from quire.errors import BackendError

    try:
        return backend.open_device().memory_info().free_bytes
    except BackendError as error:
        raise BackendError(
            f"backend {backend.name!r} has no device here whose memory could be planned; say what it would have, e.g. "
            "--memory 24GiB"
        ) from error


def _footprint(backend: OpenBackend, settled: Settled, kv: KVConstraints) -> Footprint | None:
    """Return what the core's executor would plan with; None for backends that bring their own."""
    if backend.has_hook("quire_create_executor"):
        return None
    from quire.errors import BackendError
    from quire.execution.footprint import plan_footprint
    from quire.execution.memory import choose_formats
    from quire.execution.outline import outlined, outlined_unseen
    from quire.ops.records import OPS

    try:
        table = outlined(backend.create_table(OPS))
    except BackendError:  # only to plan: its kernels cannot be imported where its device is absent
        table = outlined_unseen(backend.name)
    formats = choose_formats(settled.config, settled.spec, backend.caps, kv)
    return plan_footprint(settled.config, settled.spec, table, formats)


def _table(planned: Planned) -> Table:
    memory, spec = planned.memory, planned.settled.spec
    title = f"{spec.architecture}, {spec.num_parameters / 1e6:,.1f} M parameters, on {planned.backend.name}"
    table = Table("what", "memory", "how", title=escape(title), title_justify="left")
    per_token = memory.block_bytes // memory.block_size
    tokens, rows = planned.settled.config.max_num_batched_tokens, planned.settled.config.max_num_seqs
    table.add_row("weights", size(memory.weights_bytes), memory.dtype)
    table.add_row("workspace", size(memory.workspace_bytes), f"{rows} requests at once")
    table.add_row("activations", size(memory.activations_bytes), f"{tokens} tokens a step")
    table.add_row("KV cache", size(memory.kv_bytes), f"{memory.kv_dtype}, {per_token:,} bytes a token")
    table.add_row("[bold]total[/]", size(memory.total_bytes), f"of {size(memory.budget_bytes)}")
    if planned.process_bytes is not None:
        process = planned.process_bytes
        table.add_section()
        table.add_row("process", size(process), "Python, torch, the backend")
        table.add_row("total and process", size(memory.total_bytes + process), "as the system sees it")
    table.add_section()
    table.add_row("KV blocks", "", f"{memory.num_blocks:,} of {memory.block_size} tokens")
    table.add_row("KV tokens", "", f"{memory.kv_tokens:,}")
    table.add_row("longest context", "", f"{memory.max_model_len:,} tokens")
    table.add_row("requests of that length at once", "", f"{memory.max_concurrency:.1f}")
    for change in planned.settled.changes:
        table.add_row("changed by the backend", "", escape(f"{change.field} = {change.value}: {change.reason}"))
    return table


def _plain(planned: Planned) -> dict[str, Any]:
    memory = planned.memory
    derived = ("kv_bytes", "total_bytes", "kv_tokens", "max_concurrency")
    return {
        "backend": planned.backend.name,
        "architecture": planned.settled.spec.architecture,
        "num_parameters": planned.settled.spec.num_parameters,
        **memory._asdict(),
        **{name: getattr(memory, name) for name in derived},
        "process_bytes": planned.process_bytes,
    }


def size(num_bytes: int) -> str:
    """Return bytes for people."""
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def describe_memory(memory: MemoryFigures) -> str:
    """Return what was planned and what is measured, for people."""
    return f"planned {size(memory.planned_bytes)}, measured {size(memory.measured_bytes)}"
