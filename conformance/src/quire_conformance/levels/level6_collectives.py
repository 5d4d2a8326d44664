"""Level 6: collectives among ranks, each a process of its own, against what one process computes."""

from __future__ import annotations

import pytest

from quire_conformance.ranks import RankReport, run_ranks
from quire_conformance.target import Target


@pytest.fixture
def reports(target: Target) -> list[RankReport]:
    """What each rank found, in order; the ranks run once for all tests."""
    reports = target.remember("ranks", lambda: run_ranks(target, target.settings.ranks))
    failed = [f"rank {report.rank}: {report.error}" for report in reports if report.error]
    assert not failed, f"ranks failed: {'; '.join(failed)}"
    return reports


def test_ranks_know_their_place(target: Target, reports: list[RankReport]) -> None:
    size = target.settings.ranks
    assert [(report.rank, report.size) for report in reports] == [(rank, size) for rank in range(size)]


@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "reduce_scatter", "broadcast"])
def test_every_rank_gets_what_one_process_computes(reports: list[RankReport], collective: str) -> None:
    wrong = [f"rank {report.rank}: {problem}" for report in reports for problem in report.problems.get(collective, ())]
    assert not wrong, f"{collective} is wrong on {'; '.join(wrong)}"


def test_the_input_of_a_collective_is_left_alone(reports: list[RankReport]) -> None:
    wrong = [f"rank {report.rank}: {', '.join(report.written)}" for report in reports if report.written]
    assert not wrong, f"collectives write to their input on {'; '.join(wrong)}"
