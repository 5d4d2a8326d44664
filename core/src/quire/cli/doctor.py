"""`quire doctor`: what this machine and this installation are, and one line of verdict for every backend."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quire.backend.discovery import ALLOW_VARIABLE
from quire.cli.backends import Row, backend_rows
from quire.errors import QuireError

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pluggy", "msgspec")
VARIABLES = (ALLOW_VARIABLE, "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, processor, threads and memory, and say of each backend whether it works and why not."""
    rows = backend_rows()
    facts = {"machine": machine(), "versions": versions(), "environment": environment(), **backend_facts(rows)}
    verdicts = {row.name: verdict(row) for row in rows}
    choice = chosen()
    if as_json:
        print(json.dumps({**facts, "verdicts": verdicts, "chosen": choice}, indent=2))
    else:
        _show(facts, verdicts, choice)
    if any(row.status == "broken" for row in rows):
        raise typer.Exit(1)


def machine() -> dict[str, str]:
    """Return what computes here."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "python": f"{platform.python_version()} at {sys.executable}",
        "processor": _processor(),
        "logical cores": f"{os.cpu_count()}, {usable} usable by this process",
        "memory": _memory(),
    }


def versions() -> dict[str, str]:
    """Return the versions of every distribution of Quire that is installed, and of the libraries it stands on."""
    ours = {dist.name for dist in metadata.distributions() if (dist.name or "").partition("-")[0] == "quire"}
    return {name: _version(name) for name in [*sorted(ours), *LIBRARIES]}


def environment() -> dict[str, str]:
    """Return the environment variables that matter, where they are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def backend_facts(rows: list[Row]) -> dict[str, Mapping[str, str]]:
    """Return what each backend that is found says of itself."""
    from quire.backend.manager import open_backend, select

    facts: dict[str, Mapping[str, str]] = {}
    for row in rows:
        if row.caps is None:
            continue
        try:
            facts[row.name] = open_backend(select(row.name)).collect_env()
        except QuireError as error:
            facts[row.name] = {"quire_collect_env": f"failed: {error}"}
    return {name: said for name, said in facts.items() if said}


def verdict(row: Row) -> str:
    """Return one line: whether the backend works, why not, what to do."""
    said = "ok" if row.status == "found" else row.status
    return ": ".join(part for part in (said, row.reason) if part) + (
        f"; {row.remedy}" if row.remedy and row.status != "found" else ""
    )


def chosen() -> str:
    """Return which backend would be used without --backend, and why, or why none would."""
    from quire.backend.manager import select

    try:
        selection = select()
    except QuireError as error:
        return f"none: {str(error).splitlines()[0]}"
    return f"{selection.name}: {selection.reason}"


def _show(facts: Mapping[str, Mapping[str, str]], verdicts: Mapping[str, str], choice: str) -> None:
    console = Console(highlight=False)
    for title, values in facts.items():
        _section(console, title, values)
    _section(console, "backends", verdicts)
    console.print(f"[bold]without --backend[/]  {escape(choice)}")


def _section(console: Console, title: str, values: Mapping[str, str]) -> None:
    if not values:
        return
    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold", padding=(0, 2))
    for name, value in values.items():
        table.add_row(escape(name), escape(value))
    console.print(table)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "cpu\t"))]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    from quire.backend.host_memory import host_memory

    memory = host_memory()
    return f"{memory.free_bytes / 2**30:.1f} GiB free of {memory.total_bytes / 2**30:.1f} GiB"
