"""The tutorial is true: its files make a backend, its commands and checks run."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs/tutorials/write-a-backend.md"
BLOCK = re.compile(r"^```(\w+) ?([\w/.]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The tutorial's files in a folder, with the metadata that `pip install` would have written."""
    folder: Path = tmp_path_factory.mktemp("mychip")
    for _, name, text in BLOCK.findall(TUTORIAL.read_text()):
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / "quire_mychip-0.1.0.dist-info"
    metadata.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head)
    entries = project["entry-points"]["quire.backends"].items()
    lines = "".join(f"{name} = {value}\n" for name, value in entries)
    (metadata / "entry_points.txt").write_text(f"[quire.backends]\n{lines}")
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def quire(folder: Path, line: str) -> str:
    return run(folder, "-c", "from quire.cli import main; main()", *line.split()[1:])


def test_its_commands_show_the_backend_and_its_kernels(project):
    commands, _ = [text for kind, _, text in BLOCK.findall(TUTORIAL.read_text()) if kind == "sh"]
    listed, kernels = (quire(project, line) for line in commands.splitlines() if line.startswith("quire "))
    assert "a pretended one" in listed
    assert re.search(r"paged_attention\W+float32\W+mychip", kernels)
    assert re.search(r"rms_norm\W+float32\W+reference", kernels)


def test_its_kernels_are_as_right_as_the_reference(project):
    verdicts = run(project, "check_kernels.py").splitlines()
    assert len(verdicts) > 20
    assert all(verdict.startswith("ok") for verdict in verdicts)


def test_its_engine_says_what_the_reference_says(project):
    assert run(project, "check_engine.py").strip().endswith("equal")


@pytest.mark.timeout(600)
def test_it_passes_the_conformance_suite(project):
    _, commands = [text for kind, _, text in BLOCK.findall(TUTORIAL.read_text()) if kind == "sh"]
    (whole,) = [line for line in commands.splitlines() if line.endswith("--backend mychip")]
    assert "mychip conforms" in quire(project, whole)
    assert (project / "tests/conformance.toml").read_text() == 'backend = "mychip"\n'
