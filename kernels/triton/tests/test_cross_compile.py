"""Kernels compile for GPUs that are not here; those that are tuned for a GPU spill nothing there.

Compiled in a process of its own: here kernels are interpreted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RESOURCES = ("-m", "quire_kernels_triton.resources", "--json")
TARGETS = ("cuda:90", "cuda:80", "hip:gfx942", "hip:gfx1100")


def python(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.splitlines()


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_fits_the_gpu_and_spills_nothing(target):
    found = [json.loads(line) for line in python(*RESOURCES, target)]
    assert len({line["name"] for line in found}) >= 16
    for line in found:
        assert line["shared_bytes"] <= line["shared_limit"], line
        assert line["spills"] == 0, line


def test_kernels_that_start_early_compile_where_they_can():
    found = [json.loads(line) for line in python(*RESOURCES, "--dependent", "cuda:90")]
    assert all(line["spills"] == 0 for line in found)


@pytest.mark.slow
def test_every_case_of_the_records_compiles():
    (count,) = python(str(Path(__file__).parent / "compile_records.py"), "cuda:90")
    assert int(count) > 300
