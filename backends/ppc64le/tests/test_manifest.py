"""The manifest: what it says of POWER machines, and of others. Nothing here needs one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from quire.backend.contract import API_VERSION, Absent, Found
from quire_kernels_cpu.host.processor import Processor
from quire_ppc64le import manifest

POWER8 = frozenset({"vsx", "arch_2_07"})
POWER9 = POWER8 | {"arch_3_00"}
POWER10 = POWER9 | {"arch_3_1", "mma"}


@pytest.fixture
def on_power(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "ppc64le")


def processor(flags: frozenset[str]) -> Processor:
    return Processor("POWER, altivec supported", flags, (0, 8), None)


@pytest.mark.parametrize(("flags", "best"), [(POWER8, "power8"), (POWER9, "power9"), (POWER10, "power10")])
def test_a_power_processor_is_found_with_its_best_instruction_set(flags, best):
    found = manifest.judge(processor(flags))
    assert isinstance(found, Found)
    assert found.score == 50
    assert found.facts == {"processor": "POWER, altivec supported", "instruction set": best, "cores": "2"}


def test_a_processor_without_vsx_is_absent_with_the_reason():
    absent = manifest.judge(processor(frozenset({"arch_2_07"})))
    assert isinstance(absent, Absent)
    assert absent.reason == "POWER, altivec supported lacks vsx; it must be POWER8 or newer"
    assert "--backend reference" in absent.remedy


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ("x86_64", "this machine is x86_64, not ppc64le"),
        ("ppc64", "this machine is ppc64, not ppc64le: it is big-endian"),
    ],
)
def test_another_machine_is_absent(monkeypatch, machine, reason):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert manifest.probe() == Absent(reason, "--backend reference runs anywhere, slowly")


@pytest.mark.parametrize("module", ["torch", "quire_kernels_cpu"])
def test_a_missing_module_is_named_with_what_to_install(monkeypatch, on_power, module):
    present = manifest.importlib.util.find_spec
    monkeypatch.setattr(manifest.importlib.util, "find_spec", lambda name: None if name == module else present(name))
    assert manifest.probe() == Absent(f"{module} is not installed", "pip install 'quire[ppc64le]'")


def test_it_was_built_for_this_contract():
    assert manifest.API == API_VERSION


def test_probing_imports_neither_torch_nor_the_kernels():
    code = (
        "import platform, sys; platform.machine = lambda: 'ppc64le'; from quire_ppc64le import manifest;"
        "manifest.probe(); sys.exit(bool({'torch', 'numpy', 'quire_kernels_cpu.kernels'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
