"""Sites: folders with backends as pip would leave them, and processes that see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SEEDED = Path(__file__).parent / "seeded"
TIMEOUT_S = 600


@pytest.fixture(scope="session")
def in_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own, with more folders on its path."""

    def run(arguments: Sequence[str], *path: Path) -> subprocess.CompletedProcess[str]:
        entries = [*map(str, path), *(entry for entry in sys.path if entry)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entries), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)

    return run


@pytest.fixture(scope="session")
def conformance(
    in_process: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Run `quire conformance` on a backend that is found in these folders; return its report."""

    def run(backend: str, levels: str, *path: Path) -> dict[str, Any]:
        report = tmp_path_factory.mktemp("report") / "report.json"
        code = "from quire.cli import main; main()"
        arguments = ["conformance", "--backend", backend, "--level", levels, "--report", str(report)]
        done = in_process(["-c", code, *arguments], *path)
        assert report.exists(), done.stderr[-3000:]
        found: dict[str, Any] = json.loads(report.read_text())
        return {**found, "exit_code": done.returncode}

    return run


@pytest.fixture(scope="session")
def failures() -> Callable[[dict[str, Any]], list[str]]:
    """Return the failed tests of a report, with what they say."""
    return lambda report: [
        f"{test['id']}: {test['message']}" for test in report["tests"] if test["outcome"] == "failed"
    ]


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Path]:
    """Announce a package by metadata alone: `make_site("quire-x", "quire.backends", x="quire_x.manifest")`."""

    def make(dist: str, group: str, **entries: str) -> Path:
        folder = tmp_path / "site"
        metadata = folder / f"{dist.replace('-', '_')}-0.1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 0.1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        return folder

    return make
