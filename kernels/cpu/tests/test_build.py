"""Building: what is said without a compiler, and the generic library under the sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def test_without_a_compiler_the_cause_is_one_line(tmp_path):
    environment = {**os.environ, "CXX": "no-such-compiler", "CC": "no-such-compiler"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", tmp_path, "--build-lib", tmp_path]
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1].startswith("quire-kernels-cpu needs a C++17 compiler with OpenMP")


@pytest.mark.slow
def test_the_ops_are_clean_under_the_sanitizers(tmp_path):
    library = tmp_path / "libquire_generic.so"
    flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-fopenmp", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = PROJECT / "csrc/variants/generic.cpp"
    subprocess.run(["g++", *flags, *sanitize, source, "-o", library], check=True)
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {**os.environ, "LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    code = SANITIZED.format(folder=str(tmp_path))
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]


SANITIZED = """
from pathlib import Path
from quire.ops.check import judge_all
from quire.ops.records import OPS
from quire_kernels_cpu import library
from quire_kernels_cpu.kernels import CpuKernels
from quire_kernels_cpu.registry import SERVED, SERVED_IN_FLOAT32
library.FOLDER = Path({folder!r})
kernels = CpuKernels(library.load_library("generic"))
for op in OPS:
    if op.name in SERVED + SERVED_IN_FLOAT32:
        for dtype in op.dtypes if op.name in SERVED else ("float32",):
            assert all(verdict.ok for verdict in judge_all(op, getattr(kernels, op.name), dtype))
"""
