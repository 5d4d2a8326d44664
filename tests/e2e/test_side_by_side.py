"""Every backend of the repository in one environment: each says in a line whether it runs here, and none slows another.

They are announced as installing them announces them, from their own project files, so that this runs where they are not
installed: what a manifest needs beyond the standard library would be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECTS = {path: tomllib.loads(path.read_text())["project"] for path in sorted(ROOT.glob("*/*/pyproject.toml"))}
BACKENDS = {path.parent.name: project for path, project in PROJECTS.items() if path.parents[1].name == "backends"}
IMPORT_LIMIT_S = 0.050
TRIES = 20  # the best of them counts: other processes share the cores


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Return an environment in which every distribution of the repository is on the path and announced."""
    site = tmp_path_factory.mktemp("site")
    for project in PROJECTS.values():
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        groups = project.get("entry-points", {})
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in groups[group].items()) for group in groups
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
    sources = [str(path.parent / "src") for path in PROJECTS]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sources])}


def run(environment: dict[str, str], code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def listed(environment) -> dict[str, dict]:
    code = "import sys; sys.argv = ['quire', 'backends', '--json']; from quire.cli import main; main()"
    return {row["name"]: row for row in json.loads(run(environment, code))}


@pytest.mark.parametrize("name", BACKENDS)
def test_it_says_in_a_line_whether_it_runs_here_and_what_to_do(listed, name):
    row = listed[name]
    assert row["status"] in ("found", "absent"), row
    assert row["reason"]
    assert row["remedy"]
    assert "\n" not in row["reason"] + row["remedy"]


def test_they_are_the_backends_that_quire_offers(listed):
    assert {name for name, row in listed.items() if row["status"] != "not installed"} == {
        *BACKENDS,
        "reference",
        "null",
    }


def test_looking_for_all_of_them_imports_no_framework(environment):
    code = "from quire.backend import discovery; discovery.discover(); import sys; print(*sys.modules)"
    assert not {"torch", "triton", "jax", "numpy", "torch_xla"} & set(run(environment, code).split())


def test_importing_quire_costs_no_time_for_their_sake(environment):
    code = "import time; start = time.perf_counter(); import quire; print(time.perf_counter() - start)"
    took = []
    while len(took) < TRIES and min(took, default=1.0) > IMPORT_LIMIT_S:
        took.append(float(run(environment, code)))
    assert min(took) <= IMPORT_LIMIT_S, took


@pytest.mark.parametrize("name", BACKENDS)
def test_installed_plainly_it_asks_for_nothing_that_another_could_contradict(name):
    asked = [Requirement(text).name for text in BACKENDS[name].get("dependencies", [])]
    assert not [item for item in asked if not item.startswith("quire")], (
        "pins of a vendor's belong in the extra `runtime`"
    )
    assert "runtime" in BACKENDS[name]["optional-dependencies"]
