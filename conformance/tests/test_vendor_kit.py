"""`quire new-backend` writes a package that passes as it is; the package of API 1.0's day passes for ever."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from quire.errors import ConfigError
from quire_conformance.scaffold import write_backend

FROZEN = Path(__file__).parent / "frozen"
FROZEN_HASH = "2c094251b9e4389e3bb9827c95f8ea9b439f31fd08af18e3adb88723e1af7c03"


@pytest.mark.timeout(600)
def test_a_new_package_passes_levels_0_to_4_unedited(tmp_path, make_site, conformance, failures):
    folder = tmp_path / "quire-my-chip"
    write_backend("my-chip", folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    site = make_site(project["name"], "quire.backends", **project["entry-points"]["quire.backends"])
    report = conformance("my-chip", "0..4", site, folder / "src")
    assert not failures(report)
    assert report["exit_code"] == 0
    assert {int(test["id"][5]) for test in report["tests"] if test["outcome"] == "passed"} == {0, 1, 2, 3, 4}


def test_its_own_test_is_one_line(tmp_path):
    write_backend("mychip", tmp_path / "package")
    assert (tmp_path / "package/tests/conformance.toml").read_text() == 'backend = "mychip"\n'


@pytest.mark.parametrize("name", ["My Chip", "9chip", "chip_", ""])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="no name for a backend"):
        write_backend(name, tmp_path / "package")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write_backend("mychip", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_frozen_package_has_not_been_edited():
    found = hashlib.sha256()
    for path in sorted([*FROZEN.glob("quire_acme/*.py"), *FROZEN.glob("*.dist-info/*")]):
        found.update(path.read_bytes())
    assert found.hexdigest() == FROZEN_HASH, "vendors cannot be edited either: mend the core instead"


@pytest.mark.timeout(600)
def test_the_frozen_package_keeps_the_contract_of_today(conformance, failures):
    report = conformance("acme", "0..1", FROZEN)
    assert not failures(report)


@pytest.mark.timeout(600)
def test_the_frozen_packages_programs_run(conformance, failures):
    report = conformance("acme", "5", FROZEN)
    assert not failures(report)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_frozen_package_passes_everything_that_it_claims(conformance, failures):
    report = conformance("acme", "0..5", FROZEN)
    assert not failures(report)
    assert not failures(conformance("acme", "7", FROZEN))
