"""Listen to a run of the suite and write its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire_conformance.collection import ConformanceFile, level_of, test_id
from quire_conformance.report import Report, TestRecord, describe_target, write_report

MAX_MESSAGE = 2000


class Recorder:
    """A pytest plugin: collects what the suite's tests say, one report for each backend in the run.

    `records` grow while it runs, so that a table can be shown. With several backends in a run the file gets the first.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.records: dict[str, TestRecord] = {}
        self.expected: dict[int, int] = {}  # level → how many tests will run
        self.file: ConformanceFile | None = None
        self._ids: dict[str, str] = {}
        self._setup_seconds: dict[str, float] = {}

    @property
    def ids(self) -> list[str]:
        """Return the ids of all tests that were collected."""
        return list(self._ids.values())

    def report(self) -> Report:
        """Return everything as plain data."""
        assert self.file is not None, "no conformance.toml was collected"
        not_claimed = [TestRecord(name, "not claimed", 0.0, claim) for name, claim in self.file.not_claimed]
        return Report(**describe_target(self.file.target), tests=[*self.records.values(), *not_claimed])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            level = level_of(item)
            if level is None:
                continue
            self.file = self.file or level.conformance_file
            if level.conformance_file is self.file:
                self._ids[item.nodeid] = test_id(item)
                number = int(level.name.removeprefix("level"))
                self.expected[number] = self.expected.get(number, 0) + 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = self._ids.get(report.nodeid)
        if name is None:
            return
        if report.when != "call" and report.passed:
            self._setup_seconds[name] = self._setup_seconds.get(name, 0.0) + report.duration
            return
        figures: list[Any] = [value for key, value in report.user_properties if key == "figure"]
        known = self.records.get(name)
        if known is None or known.outcome == "passed":
            message = "" if report.passed else shorten(report)
            seconds = report.duration + self._setup_seconds.get(name, 0.0)
            self.records[name] = TestRecord(name, _outcome(report), seconds, message, figures)

    def pytest_sessionfinish(self) -> None:
        if self.path is not None and self.file is not None:
            write_report(self.report(), self.path)


def shorten(report: Any) -> str:
    """Return why a test failed, without the traceback."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr)
    lines = [line for line in text.splitlines() if line.strip()]
    kept = lines[: next((at for at, line in enumerate(lines) if line.lstrip().startswith("assert ")), len(lines))]
    return "\n".join(kept or lines)[:MAX_MESSAGE].removeprefix("AssertionError: ")


def _outcome(report: pytest.TestReport) -> str:
    return "expected failure" if hasattr(report, "wasxfail") and report.skipped else report.outcome
