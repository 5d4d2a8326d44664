"""`quire capabilities`: what each installed backend claims, one row for each thing that can be claimed.

Messages that refuse something name a row of this matrix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, NamedTuple

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from quire.backend.contract import FEATURES, BackendCaps
from quire.cli.backends import backend_rows


class Capability(NamedTuple):
    """One row: what it is called, and what a backend's claim looks like in it."""

    name: str
    read: Callable[[BackendCaps], str]


def capability_rows() -> Iterator[Capability]:
    """Yield every row, in the order of the matrix."""
    yield Capability("dtypes", lambda caps: ", ".join(caps.dtypes))
    yield Capability("kv dtypes", lambda caps: ", ".join(caps.kv_dtypes))
    yield Capability("shapes", lambda caps: str(caps.shapes))
    yield Capability("graphs", lambda caps: str(caps.graphs))
    yield Capability("memory", lambda caps: str(caps.memory))
    yield Capability("steps in flight", lambda caps: str(caps.max_in_flight))
    yield Capability("deterministic", lambda caps: _yes(caps.deterministic))
    for feature in FEATURES:
        yield Capability(feature, lambda caps, feature=feature: _yes(feature in caps.features))  # type: ignore[misc]


def matrix(claims: Mapping[str, BackendCaps]) -> dict[str, dict[str, str]]:
    """Return row → backend → claim."""
    return {row.name: {name: row.read(caps) for name, caps in claims.items()} for row in capability_rows()}


def capabilities(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what every backend that can run here claims; `quire conformance` tests the claims."""
    claims = {row.name: row.caps for row in backend_rows() if row.caps is not None}
    found = matrix(claims)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("", *(Column(name, overflow="fold") for name in claims), box=SIMPLE)
    table.columns[0].no_wrap = True
    for name, row in found.items():
        table.add_row(name, *(row[backend] for backend in claims))
    Console().print(table)


def _yes(claimed: bool) -> str:
    return "yes" if claimed else "-"
