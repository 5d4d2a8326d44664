"""The suite's own rules, each on a backend that tries to get round it."""

import json

import pytest

from quire.errors import ConfigError
from quire_conformance.settings import make_settings, parse_levels, read_settings
from quire_conformance.settings import write_settings as write

RULES = """
import pytest
from quire_conformance.claims import claims


def test_skips():
    pytest.skip("no such hardware")


def test_fails():
    assert 1 == 2, "one is not two"


@claims("speculation")
def test_of_what_is_not_claimed():
    assert False, "never run"


def test_with_a_figure(figure):
    figure("speed", 3.5, dtype="float32")
"""
RUN = """
import sys
from pathlib import Path
from quire_conformance import collection
from quire_conformance.command import run_suite
from quire_conformance.report import write_report
from quire_conformance.settings import Settings

collection.LEVELS_FOLDER = Path(sys.argv[1])
write_report(run_suite(Settings("reference", (1,)), quiet=True), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, in_process):
    """Outcome and message of made-up tests of a made-up level 1, by name."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "level1_rules.py").write_text(RULES)
    done = in_process(["-c", RUN, str(folder), str(folder / "report.json")])
    assert (folder / "report.json").exists(), done.stderr[-2000:]
    tests = json.loads((folder / "report.json").read_text())["tests"]
    return {test["id"].removeprefix("level1::test_"): test for test in tests}


def test_a_skip_is_a_failure(outcomes):
    assert outcomes["skips"]["outcome"] == "failed"
    assert "must not skip" in outcomes["skips"]["message"]


def test_a_failure_is_told_in_its_own_words(outcomes):
    assert outcomes["fails"]["message"] == "one is not two"


def test_what_is_not_claimed_is_not_run_and_reported(outcomes):
    assert outcomes["of_what_is_not_claimed"]["outcome"] == "not claimed"
    assert outcomes["of_what_is_not_claimed"]["message"] == "speculation"


def test_figures_reach_the_report(outcomes):
    assert outcomes["with_a_figure"]["figures"] == [{"name": "speed", "value": 3.5, "dtype": "float32"}]


@pytest.mark.parametrize(("text", "levels"), [("3", (3,)), ("0..2", (0, 1, 2)), ("7..7", (7,))])
def test_levels_are_one_or_a_range(text, levels):
    assert parse_levels(text) == levels


@pytest.mark.parametrize("text", ["", "a", "1-3", "0..9", "8", ".."])
def test_levels_that_do_not_exist_are_refused(text):
    with pytest.raises(ConfigError, match="level"):
        parse_levels(text)


@pytest.mark.parametrize("text", ["", "level = 3", 'backend = "x"\nlevles = [1]', "backend ="])
def test_a_wrong_settings_file_is_refused_by_name(tmp_path, text):
    path = tmp_path / "conformance.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"conformance\.toml"):
        read_settings(path)


def test_settings_come_back_as_they_were_written(tmp_path):
    settings = make_settings({"backend": "x", "levels": [3, 1], "options": {"a-b": "c"}, "threads": 2, "ranks": 2})
    write(settings, tmp_path / "conformance.toml")
    assert read_settings(tmp_path / "conformance.toml") == settings
    assert settings.levels == (1, 3)


HEAVY = ("torch", "transformers", "numpy", "hypothesis", "jinja2", "quire")
OTHER_TEST = f"""
import sys

def test_of_something_else(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("quire_conformance")
    assert not [name for name in {HEAVY} if name in sys.modules]
"""


def test_the_plugin_costs_a_run_of_other_tests_nothing(tmp_path, in_process):
    (tmp_path / "test_other.py").write_text(OTHER_TEST)
    options = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    done = in_process(["-m", "pytest", "-q", *options, str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr
