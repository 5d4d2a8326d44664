"""From a `conformance.toml` to pytest nodes: `conformance.toml::level3::test_…[…]`, for the one backend it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from quire_conformance.claims import is_claimed
from quire_conformance.settings import read_settings
from quire_conformance.target import Target

LEVELS_FOLDER = Path(__file__).parent / "levels"


class ConformanceFile(pytest.File):
    """One `conformance.toml`: the suite, for the backend that it names."""

    target: Target
    not_claimed: list[tuple[str, str]]  # id of a test that was not run, and the claim that is not made

    def collect(self) -> Iterable[pytest.Module]:
        """Yield the modules of the levels to run; of a backend that does not open, level 0 alone, which says why."""
        self.target = Target(read_settings(self.path))
        self.not_claimed = []
        try:
            levels: Sequence[int] = self.target.levels
        except Exception:  # whatever a plugin raises, level 0 tells it
            levels = (0,)
        for level in levels:
            for path in sorted(LEVELS_FOLDER.glob(f"level{level}_*.py")):
                name = f"level{level}"
                yield LevelModule.from_parent(self, path=path, name=name, nodeid=f"{self.nodeid}::{name}")


class LevelModule(pytest.Module):
    """The tests of a level in one file."""

    @property
    def conformance_file(self) -> ConformanceFile:
        parent = self.parent
        assert isinstance(parent, ConformanceFile), "levels are collected from a conformance.toml alone"
        return parent

    @property
    def target(self) -> Target:
        return self.conformance_file.target


def level_of(item: pytest.Item | Any) -> LevelModule | None:
    """Return the level that a test belongs to, None for tests that are not the suite's."""
    return item.getparent(LevelModule) if isinstance(item, pytest.Item) else None


def level_of_definition(metafunc: pytest.Metafunc) -> LevelModule | None:
    """Return the level in which a test function is being collected."""
    return metafunc.definition.getparent(LevelModule)


def test_id(item: pytest.Item) -> str:
    """Return the id that expected failures and reports use, e.g. `level3::test_…[rope-float32]`."""
    level = level_of(item)
    assert level is not None, "only the suite's tests have such ids"
    return item.nodeid[len(level.conformance_file.nodeid) + 2 :]


def leave_out_unclaimed(items: list[pytest.Item]) -> list[pytest.Item]:
    """Remove tests of what is not claimed; return them."""
    left_out = []
    for item in list(items):
        level = level_of(item)
        if level is None:
            continue
        missing = [claim for claim in _claims(item) if not is_claimed(level.target, claim)]
        if missing:
            level.conformance_file.not_claimed.append((test_id(item), missing[0]))
            left_out.append(item)
            items.remove(item)
    return left_out


def expect_failures(items: Sequence[pytest.Item]) -> None:
    """Mark what the profiles expect to fail, strictly, and tell each target which of its ids name no test."""
    tests: dict[ConformanceFile, dict[str, pytest.Item]] = {}
    for item in items:
        level = level_of(item)
        if level is not None:
            tests.setdefault(level.conformance_file, {})[test_id(item)] = item
    for file, found in tests.items():
        if set(found) and not all(name.startswith("level0") for name in found):
            file.target.stale_failures = list(_mark(file.target, found))


def _mark(target: Target, found: dict[str, pytest.Item]) -> Iterator[str]:
    ran = {name.split("::")[0] for name in found}
    known = {f"level{level}" for level in range(8)}
    for failure in target.profile.expected_failures:
        if failure.test_id in found:
            reason = f"{failure.reason} ({failure.issue})"
            found[failure.test_id].add_marker(pytest.mark.xfail(strict=True, reason=reason))
        elif failure.test_id.split("::")[0] in ran or failure.test_id.split("::")[0] not in known:
            yield failure.test_id


def _claims(item: pytest.Item) -> Iterator[str]:
    for mark in item.iter_markers("claims"):
        yield from mark.args
