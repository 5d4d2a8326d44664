"""`quire conformance`: hold a backend to the suite, with a table while it runs and a report at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from quire.errors import ConfigError
from quire_conformance.settings import FILE_NAME, LEVELS, Settings, parse_levels, write_settings

if TYPE_CHECKING:
    from quire_conformance.recorder import Recorder
    from quire_conformance.report import Report

STYLES = {"passed": "green", "failed": "bold red", "not run": "dim", "running": "cyan"}


def conformance(
    backend: Annotated[str, typer.Option(help="Backend to hold to the suite.")],
    level: Annotated[str | None, typer.Option(help="A level, or a range such as 0..4; default: all it claims.")] = None,
    report: Annotated[list[Path] | None, typer.Option(help="File to write: .json, .md or .html; repeatable.")] = None,
    backend_option: Annotated[list[str] | None, typer.Option(help="An option of the backend, NAME=VALUE.")] = None,
    threads: Annotated[int, typer.Option(help="Threads that torch may use.")] = 1,
    ranks: Annotated[int, typer.Option(help="Processes of level 6, each with a device of its own.")] = 3,
) -> None:
    """Run the conformance suite on a backend. Exit code 1: it does not conform."""
    from quire.backend import discovery
    from quire.backend.selection import select
    from quire.cli.options import parse_pairs
    from quire_conformance.report import check_format, write_report

    for path in report or ():
        check_format(path)
    options = parse_pairs(backend_option or [])
    if not discovery.discover(only=backend):
        select(backend)  # raises, with a list of what there is
    settings = Settings(backend, None if level is None else parse_levels(level), options, threads, ranks)
    found = run_suite(settings)
    for path in report or ():
        write_report(found, path)
    _tell_failures(found)
    raise typer.Exit(0 if found.passed else 1)


def run_suite(settings: Settings, arguments: Sequence[str] = (), quiet: bool = False) -> Report:
    """Run the suite in this process and return its report. Raise ConfigError when nothing could be run."""
    return _run(settings, arguments, quiet).report()


def collect_ids(settings: Settings) -> list[str]:
    """Return the ids of the tests that would be run, and run none."""
    return sorted(_run(settings, ["--collect-only"], quiet=True).ids)


def _run(settings: Settings, arguments: Sequence[str], quiet: bool) -> Recorder:
    import pytest

    from quire_conformance.recorder import Recorder

    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        write_settings(settings, Path(folder) / FILE_NAME)
        plain = ["--capture=fd", "-p", "no:terminal", "-p", "no:cacheprovider"]
        plain += ["-c", str(_empty_config(Path(folder))), "--rootdir", folder, "-W", "ignore"]
        with _shown(recorder, quiet):
            code = pytest.main([*plain, *arguments, folder], plugins=[recorder])
    if recorder.file is None:
        raise ConfigError(f"the suite could not run on {settings.backend!r} (pytest says {code!r}); is it installed?")
    return recorder


def _empty_config(folder: Path) -> Path:
    path = folder / "pytest.ini"
    path.write_text("[pytest]\nxfail_strict = true\n")
    return path


@contextmanager
def _shown(recorder: Recorder, quiet: bool) -> Iterator[None]:
    if quiet:
        yield
        return
    view = LiveTable(recorder)
    with os.fdopen(os.dup(2), "w") as stderr:  # a copy: the tests' own stderr is captured
        console = Console(file=stderr, stderr=True)
        with Live(get_renderable=view.table, console=console, refresh_per_second=4, redirect_stderr=False):
            yield
        if not console.is_terminal:
            console.line()  # a file's last line has no end yet


class LiveTable:
    """The levels, as far as they are."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def table(self) -> Table:
        """Return the table as of now."""
        table = Table("level", "", "verdict", "passed", "failed", "tests", "seconds", box=SIMPLE)
        records = list(self._recorder.records.values())
        for level, what in LEVELS.items():
            mine = [record for record in records if record.level == level]
            count, expected = len(mine), self._recorder.expected.get(level, 0)
            failed = sum(record.outcome == "failed" for record in mine)
            verdict = "failed" if failed else _progress(count, expected)
            seconds = sum(record.seconds for record in mine)
            numbers = [str(count - failed), str(failed), str(expected), f"{seconds:.1f}"] if expected else [""] * 4
            table.add_row(str(level), what, f"[{STYLES[verdict]}]{verdict}[/]", *numbers)
        return table


def _progress(count: int, expected: int) -> str:
    if not count:
        return "not run"
    return "passed" if count >= expected else "running"


def _tell_failures(report: Report) -> None:
    console: Any = Console(stderr=True, highlight=False)
    for test in report.failures:
        console.print(f"[bold red]failed[/] {escape(test.id)}\n  {escape(test.message)}", soft_wrap=True)
    verdict = "conforms" if report.passed else "does not conform"
    Console().print(f"{report.backend} {verdict}: {len(report.tests)} tests, {len(report.failures)} failed")
