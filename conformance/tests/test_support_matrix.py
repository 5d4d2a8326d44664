"""The committed reports are of the code as it is: the same claims, kernels, tests. Timings and figures may differ."""

import json
import re
from pathlib import Path

import pytest

from quire.backend import discovery
from quire.backend.contract import Found
from quire_conformance.matrix import matrix_lines
from quire_conformance.report import read_report

REPORTS = sorted((Path(__file__).parents[1] / "reports").glob("*.json"))
BACKENDS = Path(__file__).parents[2] / "backends"
AGAIN = "run the suite again and keep its report: nox -s conformance"
LOOK = """
import json, sys
from pathlib import Path
from quire_conformance.command import collect_ids
from quire_conformance.report import describe_target
from quire_conformance.settings import Settings, read_settings
from quire_conformance.target import Target

file = Path(sys.argv[2])
settings = read_settings(file) if file.exists() else Settings(sys.argv[1])
facts = describe_target(Target(settings))
print("found:" + json.dumps({**facts, "ids": collect_ids(settings)}, default=str))
"""


@pytest.fixture(params=REPORTS, ids=lambda path: path.stem)
def report(request):
    return read_report(request.param)


def test_there_are_reports_of_the_backends_that_run_here():
    ours = {path.stem: read_report(path) for path in REPORTS}
    for name in ("reference", "cpu-x86"):
        assert set(ours[name].levels) == set(range(8))


def test_a_committed_report_is_of_a_run_that_passed(report):
    assert report.passed, [test.id for test in report.failures]
    assert {test.level for test in report.tests} >= set(report.levels)


def test_a_committed_report_is_of_todays_code(report, in_process):
    if not any(isinstance(item.outcome, Found) for item in discovery.discover(only=report.backend)):
        pytest.skip(f"{report.backend} cannot run here")
    done = in_process(["-c", LOOK, report.backend, str(BACKENDS / report.backend / "conformance.toml")])
    assert "found:" in done.stdout, done.stderr[-2000:]
    today = json.loads(done.stdout.rpartition("found:")[2])
    assert today["caps"] | {"max_in_flight": 0} == report.caps | {"max_in_flight": 0}, AGAIN
    assert today["kernels"] == report.kernels, AGAIN
    ran = {test.id for test in report.tests if test.outcome != "not claimed"}
    overlapped = {name for name in ran if "overlapped_steps" in name}  # the reference's option max_in_flight claims it
    assert set(today["ids"]) | overlapped == ran, AGAIN


@pytest.mark.parametrize("name", ["rocm", "xpu", "ppc64le", "tpu", "neuron"])
def test_what_has_not_run_on_its_hardware_says_so_in_the_same_words_everywhere(name):
    sources = "".join(path.read_text() for path in (BACKENDS / name).glob("src/*/*.py"))
    (support,) = re.findall(r'\bsupport ?= ?"([^"]+)"', sources, re.IGNORECASE)
    pages = [BACKENDS / name / "README.md", BACKENDS.parent / "README.md"]
    assert all(support in " ".join(page.read_text().split()) for page in pages), support


def test_the_matrix_holds_every_backend_and_level():
    lines = list(matrix_lines([read_report(path) for path in REPORTS]))
    assert sum(path.stem in line for path in REPORTS for line in lines) >= len(REPORTS)
    assert any(line.startswith("| 7 engine under faults") for line in lines)
