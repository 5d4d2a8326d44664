"""Choosing, loading and sharing: instruction sets, libraries, OpenMP."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from quire_kernels_cpu import isa, library
from quire_kernels_cpu.isa import choose_variant, cpu_flags, usable_variants

AVX2 = frozenset({"avx2", "fma", "f16c"})


def test_the_best_variant_comes_first():
    everything = frozenset().union(*(variant.flags for variant in isa.VARIANTS))
    assert usable_variants(everything)[0] == "avx512bf16"
    assert usable_variants(AVX2) == ("avx2", "generic")
    assert usable_variants(frozenset()) == ("generic",)


def test_the_environment_chooses_a_variant(monkeypatch):
    monkeypatch.setenv(isa.ENVIRONMENT, "generic")
    assert choose_variant(AVX2) == "generic"


def test_an_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv(isa.ENVIRONMENT, "generic")
    assert choose_variant(AVX2, "avx2") == "avx2"


def test_a_variant_that_cannot_run_is_refused_with_those_that_can():
    with pytest.raises(ValueError, match="'avx512' cannot run here; this processor runs avx2, generic"):
        choose_variant(AVX2, "avx512")


def test_flags_are_read_from_the_first_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: X\nflags\t\t: fpu avx2\n\nflags\t\t: sse\n")
    assert cpu_flags(cpuinfo) == {"fpu", "avx2"}
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_looking_at_the_processor_imports_no_torch():
    code = "import sys, quire_kernels_cpu.isa; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_openmp_runtime_serves_torch_and_the_kernels(best_kernels):
    best_kernels.library.read_memory(torch.ones(1 << 19), 2)
    mapped = {line.split()[-1] for line in library.MAPS.read_text().splitlines() if "gomp" in line or "omp5" in line}
    assert mapped == {best_kernels.library.openmp}


@pytest.mark.parametrize(
    "path", ["/x/torch/lib/libgomp.so.1", "/x/torch.libs/libgomp-a34b3233.so.1.0.0", "/x/libiomp5.so", "/x/libomp.so"]
)
def test_openmp_runtimes_are_known_by_name(path):
    assert library.OPENMP_NAMES.search(path)


def test_a_library_that_was_not_built_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    with pytest.raises(OSError, match="was not built; reinstall quire-kernels-cpu"):
        library.load_library("generic")


def test_arguments_of_another_version_are_refused(monkeypatch, best_kernels):
    monkeypatch.setitem(library.FORMATS, "embedding", "3P4q")
    with pytest.raises(OSError, match="another version"):
        best_kernels.library.function("embedding")


def test_the_compiler_is_named(best_kernels):
    assert re.match(r"(gcc|clang) \d+", best_kernels.library.compiler)


def test_reading_memory_sums_it(best_kernels):
    assert best_kernels.library.read_memory(torch.ones(1 << 19), 1) == 1 << 19
