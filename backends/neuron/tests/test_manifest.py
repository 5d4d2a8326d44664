"""The manifest says what is missing, PyPI's placeholder included, and imports nothing heavy."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from quire.backend.contract import API_VERSION, Absent
from quire_neuron import manifest


def test_it_was_built_for_this_contract():
    assert manifest.API == API_VERSION


def test_without_its_libraries_it_is_absent_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert manifest.probe() == Absent("torch, jax, torchax are not installed", "pip install 'quire[neuron]'")


@pytest.fixture
def placeholder(tmp_path, monkeypatch):
    folder = tmp_path / "torch_neuronx"
    folder.mkdir()
    (folder / "__init__.py").write_text('raise ImportError("WRONG PACKAGE. Please install the package from …")\n')
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("placeholder")
def test_the_placeholder_of_pypi_is_recognised_without_importing_it():
    assert manifest.is_placeholder()


def test_another_module_is_no_placeholder():
    assert not manifest.is_placeholder("json")
    assert not manifest.is_placeholder("no_such_module_anywhere")


@pytest.mark.usefixtures("placeholder")
def test_it_is_there_only_for_whoever_names_it_and_tells_what_a_chip_would_need(monkeypatch):
    found = importlib.util.find_spec
    here = {"torch", "jax", "torchax"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in here else found(name))
    seen = manifest.probe()
    assert seen.score == 0
    assert seen.facts.keys() == {"chips", "driver library", "torch-neuronx", "without a chip"}


def test_chips_are_device_files(tmp_path):
    for name in ("neuron0", "neuron11", "neurons"):
        (tmp_path / name).touch()
    assert manifest.find_chips(tmp_path) == ["neuron0", "neuron11"]


def test_probing_imports_neither_torch_nor_jax():
    code = "import sys, quire_neuron.manifest as m; m.probe(); print({'torch', 'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
