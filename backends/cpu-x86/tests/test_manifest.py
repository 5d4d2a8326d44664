"""The manifest: it finds this machine, and says what another lacks."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from quire.backend.contract import API_VERSION, Absent, Found
from quire_cpu_x86 import manifest
from quire_kernels_cpu.host.processor import Processor

AVX2 = frozenset({"avx2", "fma", "f16c"})


def test_this_machine_is_found_with_its_facts():
    found = manifest.probe()
    assert isinstance(found, Found)
    assert found.score == 50
    assert found.facts.keys() == {"processor", "instruction set", "cores"}


def test_it_was_built_for_this_contract():
    assert manifest.API == API_VERSION


def test_a_processor_without_avx2_is_absent_with_the_reason():
    absent = manifest.judge(Processor("Old One", frozenset({"sse2", "fma"}), (0,), None))
    assert isinstance(absent, Absent)
    assert absent.reason == "Old One lacks avx2, f16c"
    assert "--backend reference" in absent.remedy


def test_another_architecture_is_absent(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "ppc64le")
    assert manifest.probe().reason == "this machine is ppc64le, not x86-64"


@pytest.mark.parametrize("module", ["torch", "quire_kernels_cpu"])
def test_a_missing_module_is_named_with_what_to_install(monkeypatch, module):
    present = manifest.importlib.util.find_spec
    monkeypatch.setattr(manifest.importlib.util, "find_spec", lambda name: None if name == module else present(name))
    absent = manifest.probe()
    assert absent.reason == f"{module} is not installed"
    assert absent.remedy == "pip install 'quire[cpu-x86]'"


def test_probing_imports_neither_torch_nor_the_kernels():
    code = (
        "import sys; from quire_cpu_x86 import manifest; manifest.probe();"
        "sys.exit(bool({'torch', 'numpy', 'quire_kernels_cpu.kernels'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
