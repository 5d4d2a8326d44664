"""The pytest plugin: collects `conformance.toml`, gives tests their `target`, and lets nobody skip.

Installed with the distribution; a vendor's side of it is the one file `conformance.toml`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("quire_conformance.levels")

if TYPE_CHECKING:
    from quire_conformance.target import Target

FILE_NAME = "conformance.toml"
SKIPPED = "a test of a claimed profile must not skip: claim less, or expect the failure with a reason and an issue"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quire conformance")
    group.addoption("--conformance-report", metavar="FILE", help="write the suite's report: .json, .md or .html")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "claims(name): mandatory where the backend claims it, not run where it does not")
    path = config.getoption("--conformance-report", None)
    if path:
        from quire_conformance.recorder import Recorder

        config.pluginmanager.register(Recorder(Path(path)), "quire-conformance-recorder")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != FILE_NAME:
        return None
    from quire_conformance.collection import ConformanceFile

    return ConformanceFile.from_parent(parent, path=file_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from quire_conformance.collection import expect_failures, leave_out_unclaimed

    whole = not any("::" in str(argument) for argument in config.args)
    left_out = leave_out_unclaimed(items)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    if whole:
        expect_failures(items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    from quire_conformance.collection import level_of_definition

    level = level_of_definition(metafunc)
    make = getattr(metafunc.module, "parameters", None)
    if level is None or make is None:
        return
    for names, values in make(level.target, metafunc.function.__name__):
        metafunc.parametrize(names, values)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    from quire_conformance.collection import level_of

    if level_of(item) is not None and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr}; {SKIPPED}"
    return report


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The backend under test."""
    from quire_conformance.collection import level_of

    level = level_of(request.node)
    assert level is not None, "`target` is for the suite's own tests"
    return level.target


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Put a figure into the report: `figure("error ratio", 1.3, op="rope", dtype="float32")`."""

    def record(name: str, value: float, **labels: str) -> None:
        request.node.user_properties.append(("figure", {"name": name, "value": value, **labels}))

    return record
