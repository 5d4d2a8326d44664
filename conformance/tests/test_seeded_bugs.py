"""The suite is worth what it catches: every seeded bug, at the level meant for it, with words that name the cause."""

import re
import sys
from pathlib import Path

import pytest

SEEDED = Path(__file__).parent / "seeded"
REPORT = Path(__file__).parents[1] / "reports" / "mutations.md"
sys.path.insert(0, str(SEEDED))

from mutations import run_bugs  # noqa: E402
from seeded_bugs.catalogue import CATALOGUE, SOUND  # noqa: E402
from site_of_bugs import write_site  # noqa: E402

QUICK = [bug for bug in CATALOGUE if bug.quick]
OTHERS = [bug for bug in CATALOGUE if not bug.quick]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeded")
    write_site(folder)
    return folder


@pytest.fixture(scope="module")
def quick(site):
    return run_bugs([*QUICK, *SOUND], site)


@pytest.fixture(scope="module")
def others(site):
    return run_bugs(OTHERS, site)


def must_be_caught(bug, caught):
    assert caught.num_tests, f"no test of level {bug.level} was run"
    assert caught.failures, f"{bug.name} got through level {bug.level}"
    assert caught.names(bug.says), f"nothing names {bug.says!r}: {caught.failures}"


def test_there_are_many_bugs_and_every_level_has_a_quick_one():
    assert len(CATALOGUE) >= 30
    assert {bug.level for bug in QUICK} == set(range(8))
    assert len({bug.name for bug in CATALOGUE}) == len(CATALOGUE)


def test_the_kept_report_has_every_bug_caught_and_no_path_of_a_machine():
    rows = [line.split(" | ") for line in REPORT.read_text().splitlines() if line.startswith("| ")][2:]
    assert {(int(row[0].strip("| ")), row[1]) for row in rows} == {(bug.level, bug.name) for bug in CATALOGUE}
    assert {row[2] for row in rows} == {"yes"}
    assert not re.search(r"[ '\"]/(home|root|tmp|usr)/", REPORT.read_text())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", QUICK, ids=lambda bug: f"level {bug.level}: {bug.name}")
def test_a_bug_is_caught_at_its_level_by_name(quick, bug):
    must_be_caught(bug, quick[bug.name])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", SOUND, ids=lambda bug: bug.name)
def test_a_backend_without_a_bug_passes(quick, bug):
    assert quick[bug.name].num_tests > 0
    assert not quick[bug.name].failures


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", OTHERS, ids=lambda bug: f"level {bug.level}: {bug.name}")
def test_every_other_bug_is_caught_too(others, bug):
    must_be_caught(bug, others[bug.name])
