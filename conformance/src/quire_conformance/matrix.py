"""The support matrix: what reports say of each backend, side by side, as Markdown. Nothing in it is typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quire.backend.contract import FEATURES
from quire_conformance.report import Report
from quire_conformance.settings import LEVELS

CLAIMS: Mapping[str, str] = {
    "dtypes": "dtypes",
    "kv_dtypes": "KV dtypes",
    "shapes": "shapes",
    "graphs": "graphs",
    "memory": "memory",
    "max_in_flight": "steps in flight",
    "deterministic": "deterministic",
}


def matrix_lines(reports: Sequence[Report]) -> Iterator[str]:
    """Yield the page's lines: who ran, levels, claims, who serves each op."""
    yield "From the conformance reports in `conformance/reports`; `nox -s conformance` writes them anew. A claim is"
    yield "there because its tests passed; `quire capabilities` shows the claims of what is installed with you."
    yield ""
    yield from (f"- **{item.backend}**: {item.distribution}, {item.support}; {item.device}" for item in reports)
    yield from _section("Levels", reports, _levels(reports))
    yield from _section("Claims", reports, _claims(reports))
    yield from _section("Who serves each op", reports, _ops(reports))


def _section(title: str, reports: Sequence[Report], rows: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from ["", f"## {title}", ""]
    yield from _line("", [report.backend for report in reports])
    yield from _line("---", ["---"] * len(reports))
    for name, cells in rows.items():
        yield from _line(name, cells)


def _line(name: str, cells: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join([name, *cells])} |"


def _levels(reports: Sequence[Report]) -> dict[str, list[str]]:
    return {f"{level} {what}": [_level(report, level) for report in reports] for level, what in LEVELS.items()}


def _level(report: Report, level: int) -> str:
    counts = report.counts(level)
    return f"{report.verdict(level)} ({counts['passed']})" if counts["passed"] else report.verdict(level)


def _claims(reports: Sequence[Report]) -> dict[str, list[str]]:
    rows = {title: [_cell(report.caps.get(name)) for report in reports] for name, title in CLAIMS.items()}
    features = {name: [_cell(name in report.caps.get("features", ())) for report in reports] for name in FEATURES}
    return {**rows, **features}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def _ops(reports: Sequence[Report]) -> dict[str, list[str]]:
    ops = sorted({op for report in reports for op in report.kernels})
    return {op: [_providers(report.kernels.get(op, {})) for report in reports] for op in ops}


def _providers(by_dtype: Mapping[str, str]) -> str:
    """Return one name where all dtypes have the same, else each dtype's."""
    names = set(by_dtype.values())
    if len(names) <= 1:
        return next(iter(names), "-")
    return "; ".join(f"{dtype} {name}" for dtype, name in by_dtype.items())
