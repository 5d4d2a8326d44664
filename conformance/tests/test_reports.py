"""Reports: JSON is the source, and what is drawn from it says the same."""

import dataclasses

import pytest

from quire.errors import ConfigError
from quire_conformance.report import Report, TestRecord, check_format, draw, read_report, write_report

RATIO = {"name": "error ratio", "value": 5.25, "op": "rope", "dtype": "float32", "provider": "chip", "bound": "4"}
CAPACITY = {"name": "capacity", "value": 2048, "of": "tokens in the suite's KV cache"}
TESTS = [
    TestRecord("level1::test_that_is_fine", "passed", 0.5, "", [CAPACITY]),
    TestRecord("level3::test_kernel[rope-float32]", "failed", 1.5, "rope is wrong in <2> cases", [RATIO]),
    TestRecord("level4::test_of_drafts", "not claimed", 0.0, "speculation"),
    TestRecord("level2::test_slow", "expected failure", 0.1, "slow silicon (issue 7)"),
]
CAPS = {
    "dtypes": ["float32"],
    "kv_dtypes": ["float32"],
    "shapes": "dynamic",
    "graphs": "none",
    "memory": "unified",
    "max_in_flight": 1,
    "deterministic": True,
    "features": ["logprobs"],
}


@pytest.fixture
def report() -> Report:
    facts = {item.name: item.name for item in dataclasses.fields(Report)}
    return Report(**{**facts, "levels": [0, 1], "caps": CAPS, "kernels": {}, "tests": TESTS})


def test_a_report_comes_back_as_it_was_written(report, tmp_path):
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report


def test_verdicts_are_by_level(report):
    assert [report.verdict(level) for level in range(5)] == ["not run", "passed", "passed", "failed", "not run"]
    assert not report.passed


def test_nothing_run_is_not_passed(report):
    assert not dataclasses.replace(report, tests=[]).passed


def test_markdown_shows_failures_figures_and_expectations(report):
    text = draw(report, ".md")
    assert "FAILED" in text
    assert "rope is wrong in <2> cases" in text
    assert "| rope | float32 | chip | 5.25 (4) |" in text
    assert "slow silicon (issue 7)" in text
    assert "- tokens in the suite's KV cache: 2048" in text


def test_html_escapes_what_tests_say(report):
    text = draw(report, ".html")
    assert "rope is wrong in &lt;2&gt; cases" in text
    assert '<td class="n">2048</td>' in text
    assert 'class="over" style="width:100.0%"' in text


def test_titles_are_sentences(report):
    assert report.tests[1].title == "kernel (rope-float32)"


@pytest.mark.parametrize("name", ["report.txt", "report", "report.pdf"])
def test_an_unknown_format_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"\.html"):
        check_format(tmp_path / name)
