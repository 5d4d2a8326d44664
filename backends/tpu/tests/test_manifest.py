"""The manifest says what is here and what is missing, and imports nothing heavy."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from quire.backend.contract import API_VERSION, Absent, Found
from quire_tpu import manifest


def test_it_was_built_for_this_contract():
    assert manifest.API == API_VERSION


@pytest.mark.parametrize("missing", ["jax", "torchax"])
def test_without_its_libraries_it_is_absent_and_says_what_to_install(monkeypatch, missing):
    found = importlib.util.find_spec
    absent = (missing, "torch_xla")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else found("sys"))
    assert manifest.probe() == Absent(f"{missing} is not installed", "pip install 'quire[tpu]'")


def test_torch_xla_may_take_the_place_of_torchax(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchax" else object())
    assert isinstance(manifest.probe(), Found)


def test_without_a_chip_it_is_there_only_for_whoever_names_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(manifest, "find_chips", list)
    found = manifest.probe()
    assert isinstance(found, Found)
    assert found.score == 0
    assert "device=cpu" in found.facts["without one"]


def test_a_chip_without_its_library_scores_nothing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else object())
    monkeypatch.setattr(manifest, "find_chips", lambda: ["accel0"])
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert manifest.probe().score == 0
    assert "libtpu is not installed" in manifest.probe().facts["chips"]


def test_a_chip_with_its_library_wins_a_free_choice(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(manifest, "find_chips", lambda: ["accel0", "accel1"])
    assert manifest.probe() == Found(100, {"chips": "2"})


def test_chips_are_device_files(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("accel0", "accel1", "accelerometer"):
        (tmp_path / "dev" / name).touch()
    assert manifest.find_chips(tmp_path) == ["accel0", "accel1"]


@pytest.mark.parametrize("device, chips", [("0x0063", ["0000:00:04.0"]), ("0x0042", [])], ids=["v5e", "network card"])
def test_chips_are_pci_functions_of_known_devices(tmp_path, device, chips):
    function = tmp_path / "sys/bus/pci/devices/0000:00:04.0"
    function.mkdir(parents=True)
    (function / "vendor").write_text("0x1ae0\n")
    (function / "device").write_text(f"{device}\n")
    assert manifest.find_chips(tmp_path) == chips


def test_probing_imports_neither_torch_nor_jax():
    code = "import sys, quire_tpu.manifest as m; m.probe(); print({'torch', 'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
