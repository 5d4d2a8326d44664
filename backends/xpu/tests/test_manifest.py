"""The manifest says what it sees, and what to do about what it does not. Its surroundings are folders of the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quire.backend.contract import API_VERSION, Absent, Found
from quire_xpu import manifest
from quire_xpu.manifest import DRIVER, Packages, look

INTEL, OTHER = "0x8086", "0x1002"


def add_card(root: Path, index: int, vendor: str, renders: bool = True) -> None:
    """Make what the kernel shows of a graphics card, and of a connector of it."""
    device = root / f"sys/class/drm/card{index}/device"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "device").write_text("0xe20b\n")
    (root / f"sys/class/drm/card{index}-HDMI-A-1/device").mkdir(parents=True)
    if renders:
        (device / f"drm/renderD{128 + index}").mkdir(parents=True)


@pytest.fixture
def packages(tmp_path) -> Packages:
    return Packages(built_for(tmp_path / "torch", xpu="'20250301'"), tmp_path)


def built_for(folder: Path, xpu: str) -> Path:
    folder.mkdir()
    (folder / "version.py").write_text(f"hip: Optional[str] = None\nxpu: Optional[str] = {xpu}\n")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def with_driver(name: str) -> bool:
    return name == DRIVER


def without_driver(name: str) -> bool:
    return False


def test_a_gpu_its_driver_and_its_torch_are_found(root, packages):
    add_card(root, 0, OTHER)
    add_card(root, 1, INTEL)
    found = look(root, {}, packages, with_driver)
    assert isinstance(found, Found)
    assert found.score == 100
    assert found.facts["gpus"] == "card1 (0xe20b)"
    assert found.facts["torch's SYCL"] == "20250301"
    assert "no Intel GPU has run it" in found.facts["support"]


def test_no_gpu_is_said_so_with_a_remedy(root, packages):
    add_card(root, 0, OTHER)
    absent = look(root, {}, packages, with_driver)
    assert isinstance(absent, Absent)
    assert "no Intel GPU is here" in absent.reason
    assert "--device=/dev/dri" in absent.remedy


def test_a_card_that_cannot_compute_is_none(root, packages):
    add_card(root, 0, INTEL, renders=False)
    assert isinstance(look(root, {}, packages, with_driver), Absent)


@pytest.mark.parametrize("selector", ["opencl:*", "opencl:cpu", "cuda:0"])
def test_a_selector_without_level_zero_is_named(root, packages, selector):
    add_card(root, 0, INTEL)
    absent = look(root, {"ONEAPI_DEVICE_SELECTOR": selector}, packages, with_driver)
    assert (selector in absent.reason, absent.remedy) == (True, "unset ONEAPI_DEVICE_SELECTOR")


@pytest.mark.parametrize("selector", ["level_zero:gpu", "*:gpu", "opencl:cpu;level_zero:0"])
def test_a_selector_with_level_zero_is_accepted(root, packages, selector):
    add_card(root, 0, INTEL)
    assert isinstance(look(root, {"ONEAPI_DEVICE_SELECTOR": selector}, packages, with_driver), Found)


def test_a_missing_driver_is_named(root, packages):
    add_card(root, 0, INTEL)
    absent = look(root, {}, packages, without_driver)
    assert DRIVER in absent.reason
    assert "Level Zero" in absent.remedy


@pytest.mark.parametrize("xpu", ["None", None], ids=["built for something else", "not installed"])
def test_a_torch_without_xpu_is_refused_with_what_to_install(root, packages, tmp_path, xpu):
    add_card(root, 0, INTEL)
    torch = built_for(tmp_path / "other", xpu) if xpu else None
    absent = look(root, {}, packages._replace(torch=torch), with_driver)
    assert absent.reason == "torch is not installed, or is a build without XPU"
    assert "Intel's build of torch" in absent.remedy


def test_a_missing_triton_is_named(root, packages):
    add_card(root, 0, INTEL)
    assert "triton is not installed" in look(root, {}, packages._replace(triton=None), with_driver).reason


def test_it_was_built_for_this_contract():
    assert manifest.API == API_VERSION


def test_looking_imports_no_torch():
    code = "import sys, quire_xpu.manifest as m; m.probe(); print(*{'torch', 'triton', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
