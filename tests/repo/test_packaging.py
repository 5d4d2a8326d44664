"""One version everywhere, pins that agree with it, entry points that lead somewhere."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import quire

ROOT = Path(__file__).parents[2]
PYPROJECTS = sorted([*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")])
PROJECTS = {path: tomllib.loads(path.read_text()) for path in PYPROJECTS}
IDS = [str(path.parent.relative_to(ROOT)) for path in PYPROJECTS]


def requirements(project: dict) -> list[Requirement]:
    """Return everything that a project asks for, extras included."""
    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    return [Requirement(text) for texts in lists for text in texts]


@pytest.mark.parametrize("path", PYPROJECTS, ids=IDS)
def test_every_distribution_has_the_one_version(path):
    project = PROJECTS[path]["project"]
    assert project["version"] == quire.__version__
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11,<3.13"


@pytest.mark.parametrize("path", PYPROJECTS, ids=IDS)
def test_our_distributions_pin_each_other_exactly(path):
    ours = [item for item in requirements(PROJECTS[path]["project"]) if item.name.partition("-")[0] == "quire"]
    assert all(str(item.specifier) == f"=={quire.__version__}" for item in ours)


def test_every_backend_and_plugin_in_the_tree_is_an_extra_of_quire():
    extras = {item.name for item in requirements(PROJECTS[ROOT / "core/pyproject.toml"]["project"])}
    offered = [path for path in PYPROJECTS if path.parents[1].name in ("backends", "plugins")]
    assert {PROJECTS[path]["project"]["name"] for path in offered} <= extras


def test_uv_takes_every_distribution_from_this_checkout():
    sources = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["sources"]
    assert sources == {PROJECTS[path]["project"]["name"]: {"workspace": True} for path in PYPROJECTS}


@pytest.mark.parametrize("path", PYPROJECTS, ids=IDS)
def test_entry_points_of_installed_distributions_can_be_loaded(path):
    project = PROJECTS[path]["project"]
    try:
        dist = importlib.metadata.distribution(project["name"])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{project['name']} is not installed here")
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    installed = {(entry.group, entry.name, entry.value) for entry in dist.entry_points}
    for group, entries in groups.items():
        for name, value in entries.items():
            assert (group, name, value) in installed, f"{value} was added after {project['name']} was installed"
            importlib.metadata.EntryPoint(name, value, group).load()


def test_constraints_pin_versions_that_core_allows():
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    for requirement in map(Requirement, PROJECTS[ROOT / "core/pyproject.toml"]["project"]["dependencies"]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_no_registry_is_named():
    names = ("constraints.txt", "requirements-test.txt", "Makefile", "noxfile.py")
    files = [*(ROOT / name for name in names), *PYPROJECTS]
    assert not [path for path in files if re.search(r"index-url|find-links|https?://", path.read_text())]
