"""What a pytest run with the suite in it needs: tests get their `target`, nobody skips, and claims choose what runs.

A pytest plugin too, which `quire_conformance.plugin` registers at the first `conformance.toml`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from quire_conformance.collection import expect_failures, leave_out_unclaimed, level_of, level_of_definition
from quire_conformance.target import Target

SKIPPED = "a test of a claimed profile must not skip: claim less, or expect the failure with a reason and an issue"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    whole = not any("::" in str(argument) for argument in config.args)
    left_out = leave_out_unclaimed(items)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    if whole:
        expect_failures(items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
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
    if level_of(item) is not None and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr}; {SKIPPED}"
    return report


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The backend under test."""
    level = level_of(request.node)
    assert level is not None, "`target` is for the suite's own tests"
    return level.target


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Put a figure into the report: `figure("error ratio", 1.3, op="rope", dtype="float32")`."""

    def record(name: str, value: float, **labels: str) -> None:
        request.node.user_properties.append(("figure", {"name": name, "value": value, **labels}))

    return record
