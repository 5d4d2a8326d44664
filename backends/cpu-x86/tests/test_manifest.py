"""The manifest: it finds this machine, and says what another lacks."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from quire.backend.contract import API_VERSION, Absent, Found
from quire_cpu_x86 import manifest
from quire_cpu_x86.processor import Processor, read_processor

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


def test_threads_are_physical_cores_within_the_quota(tmp_path):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert manifest_cores(tmp_path, [0, 1, 2, 3]) == (0, 1)
    assert manifest_cores(tmp_path, [1, 2, 3]) == (1, 2)
    assert manifest_cores(tmp_path / "none", [4, 5]) == (4, 5)


def manifest_cores(topology, cpus):
    from quire_cpu_x86.processor import physical_cores

    return physical_cores(cpus, topology)


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 4), ("150000 100000", 1), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_quota_lowers_the_threads(tmp_path, quota, threads):
    (tmp_path / "cpu.max").write_text(quota)
    processor = read_processor(quota=tmp_path / "cpu.max")._replace(cores=(0, 1, 2, 3))
    assert processor.num_threads == threads
