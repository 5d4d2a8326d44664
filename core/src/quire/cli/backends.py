"""`quire backends`: who is here, who is not and why, what each can do; `--kernels`: who serves each op, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quire.backend import discovery
from quire.backend.contract import BackendCaps, Found
from quire.cli.options import BackendOption
from quire.errors import BackendError, QuireError

if TYPE_CHECKING:
    from quire.ops.table import Resolution


class Row(NamedTuple):
    """One backend as it is shown. `caps` is None where it was not opened."""

    name: str
    distribution: str
    status: str
    reason: str
    remedy: str
    caps: BackendCaps | None


STYLES = {"found": "green", "absent": "yellow", "broken": "red", "not allowed": "yellow", "not installed": "dim"}


def backends(
    kernels: Annotated[bool, typer.Option("--kernels", help="Show which provider serves each op, and why.")] = False,
    model: Annotated[str, typer.Option(help="Model whose ops --kernels resolves: a folder, name or shape.")] = "r100m",
    backend: BackendOption = None,
    dtype: Annotated[str | None, typer.Option(help="Data type for --kernels; default: the backend's first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List backends, a line for each: found, absent or broken, with the reason and the remedy. One that is named: in
    detail, with its capabilities; `quire capabilities` compares those of all."""
    if kernels:
        _show_kernels(model, backend, dtype, as_json)
        return
    rows = [row for row in backend_rows() if backend in (None, row.name)]
    if not rows:
        raise BackendError(f"there is no backend {backend!r}; `quire backends` lists them")
    if as_json:
        print(json.dumps([row._replace(caps=_plain_caps(row.caps))._asdict() for row in rows], indent=2))
    else:
        Console().print(_backends_list(rows) if backend is None else _backends_table(rows))


def backend_rows() -> list[Row]:
    """Return every installed backend, opened where it is found, and those that could be installed."""
    rows = [_row(candidate) for candidate in discovery.discover()]
    here = {row.name for row in rows}
    missing = [name for name in discovery.known_backends() if name not in here]
    return rows + [Row(name, "", "not installed", "", discovery.install_line(name), None) for name in missing]


def _row(candidate: discovery.Candidate) -> Row:
    name, distribution = candidate.name, candidate.distribution
    if not isinstance(candidate.outcome, Found):
        return Row(name, distribution, candidate.status, candidate.reason, candidate.remedy, None)
    from quire.backend.manager import open_backend, select

    try:
        caps = open_backend(select(name)).caps
    except QuireError as error:
        return Row(name, distribution, "broken", str(error), "", None)
    facts = [f"{key} {value}" for key, value in candidate.outcome.facts.items()]
    return Row(name, distribution, "found", "; ".join([candidate.reason, *facts]), f"--backend {name}", caps)


def _backends_list(rows: list[Row]) -> Table:
    table = Table("backend", "status", "why, and what to do", box=SIMPLE)
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in rows:
        texts = (row.reason,) if row.status == "found" else (row.reason, row.remedy)
        why = escape("; ".join(text for text in texts if text))
        table.add_row(f"[bold]{escape(row.name)}[/]", f"[{STYLES[row.status]}]{row.status}[/]", why)
    return table


def _backends_table(rows: list[Row]) -> Table:
    table = Table("backend", "status", "why, and what to do", "capabilities", box=SIMPLE)
    table.columns[1].no_wrap = True
    for row in rows:
        name = f"[bold]{escape(row.name)}[/]" + (f"\n[dim]{escape(row.distribution)}[/]" if row.distribution else "")
        why = "\n".join(escape(text) for text in (row.reason, row.remedy) if text)
        caps = escape("\n".join(_caps_lines(row.caps))) if row.caps else ""
        table.add_row(name, f"[{STYLES[row.status]}]{row.status}[/]", why, caps)
    return table


def _caps_lines(caps: BackendCaps) -> Iterator[str]:
    yield f"{caps.device_type}: {caps.memory} memory, {caps.shapes} shapes, graphs: {caps.graphs}"
    yield f"weights {', '.join(caps.dtypes)}"
    yield f"KV {', '.join(caps.kv_dtypes)}"
    yield f"{caps.max_in_flight} in flight, {'deterministic' if caps.deterministic else 'not deterministic'}"
    yield ", ".join(sorted(caps.features)) or "no features"


def _plain_caps(caps: BackendCaps | None) -> Any:
    return None if caps is None else {**asdict(caps), "features": sorted(caps.features)}


def _show_kernels(model: str, backend: str | None, dtype: str | None, as_json: bool) -> None:
    from quire.cli.kernel_report import resolve_kernels

    report = resolve_kernels(model, backend, dtype)
    if as_json:
        print(json.dumps([_plain_resolution(item) for item in report.resolutions], indent=2))
        return
    console = Console()
    console.print(_kernels_table(report.title, report.resolutions))
    if report.unused:
        others = "; ".join(f"{op}: {', '.join(providers)}" for op, providers in report.unused.items())
        console.print(f"not asked for by this model: {escape(others)}")
    for plugin in report.plugins:
        state = f"not used: {plugin.reason}" if plugin.reason else "used"
        console.print(f"kernel plugin {escape(plugin.name)} ({escape(plugin.distribution)}): {escape(state)}")


def _kernels_table(title: str, resolutions: list[Resolution]) -> Table:
    table = Table("op", "dtype", "served by", "passed over", title=title)
    for item in resolutions:
        passed = [f"{other.provider}: {', '.join(other.reasons)}" for other in item.passed_over]
        table.add_row(item.request.op, item.request.dtype, item.provider, escape("\n".join(passed)))
    return table


def _plain_resolution(item: Resolution) -> dict[str, Any]:
    return {
        "op": item.request.op,
        "dtype": item.request.dtype,
        "attributes": {key: str(value) for key, value in item.request.attributes.items()},
        "provider": item.provider,
        "graph_safe": item.graph_safe,
        "passed_over": [other._asdict() for other in item.passed_over],
    }
