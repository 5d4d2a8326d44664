"""Kernels compile for GPUs that are not here; those that are tuned for a GPU spill nothing there.

What compilers say of every kernel is kept in `reports/resources.jsonl`, and compared with what they say now: of all
kernels for one GPU, and of some for the others. Compiled in a process of its own: here kernels are interpreted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPORT = [json.loads(line) for line in (ROOT / "reports/resources.jsonl").read_text().splitlines()]
TARGETS = sorted({line["target"] for line in REPORT})
SPILLS_NOTHING = ("cuda:80", "cuda:90", "hip:gfx1100", "hip:gfx90a", "hip:gfx942", "hip:gfx950")
WHOLE = "hip:gfx942"
SAMPLE = ("attention decode 1", "attention mixed 2048", "norm, qkv 16")
CHANGED = "what compilers say of the kernels has changed: nox -s resources writes it anew"


def python(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.splitlines()


def compiled(*arguments):
    return [json.loads(line) for line in python("-m", "quire_kernels_triton.resources", "--json", *arguments)]


def test_the_report_tells_of_every_kernel_for_every_gpu():
    sources = (ROOT / "src/quire_kernels_triton").glob("*.py")
    kernels = {name for path in sources for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)}
    for target in TARGETS:
        assert {line["name"] for line in REPORT if line["target"] == target} == kernels, target


def test_every_kernel_fits_its_gpus_shared_memory():
    assert not [line for line in REPORT if line["shared_bytes"] > line["shared_limit"]]


def test_kernels_spill_nothing_where_they_are_tuned():
    assert set(SPILLS_NOTHING) <= set(TARGETS)
    assert not [line for line in REPORT if line["target"] in SPILLS_NOTHING and line["spills"]]


def test_all_kernels_for_one_gpu_are_as_reported():
    assert compiled(WHOLE) == [line for line in REPORT if line["target"] == WHOLE], CHANGED


def test_some_kernels_for_every_gpu_are_as_reported():
    only = [argument for name in SAMPLE for argument in ("--only", name)]
    sample = [line for target in TARGETS for line in REPORT if line["target"] == target and line["launch"] in SAMPLE]
    assert compiled(*TARGETS, *only) == sample, CHANGED


@pytest.mark.slow
def test_kernels_that_start_early_compile_where_they_can():
    assert all(line["spills"] == 0 for line in compiled("--dependent", "cuda:90"))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx90a", "hip:gfx942", "hip:gfx950", "hip:gfx1100"])
def test_every_case_of_the_records_compiles(target):
    (count,) = python(str(Path(__file__).parent / "compile_records.py"), target)
    assert int(count) > 300


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_what_was_compiled_together_is_not_compiled_again(target):
    assert python(str(ROOT / "tests/compile_twice.py"), target) == ["2", "0"]
