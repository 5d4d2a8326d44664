"""The manifest says what it sees, and what to do about what it does not. Its surroundings are folders of the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quire.backend.contract import API_VERSION, Absent, Found
from quire_rocm import manifest
from quire_rocm.manifest import Packages, look

PROCESSOR, MI300, MI200, VEGA, RADEON = 0, 90402, 90010, 90006, 110000


def machine(root: Path, *versions: int) -> Path:
    """Make what the kernel shows of a machine with these nodes; return its root."""
    (root / "dev").mkdir()
    (root / "dev/kfd").touch()
    for index, version in enumerate(versions):
        node = root / f"sys/class/kfd/kfd/topology/nodes/{index}"
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 0\nsimd_count 304\ngfx_target_version {version}\n")
    return root


@pytest.fixture
def packages(tmp_path) -> Packages:
    return Packages(built_for(tmp_path / "torch", hip="'7.1.25424'"), tmp_path)


def built_for(folder: Path, hip: str) -> Path:
    folder.mkdir()
    (folder / "version.py").write_text(f"cuda: Optional[str] = None\nhip: Optional[str] = {hip}\n")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_a_gpu_its_driver_and_its_torch_are_found(root, packages):
    found = look(machine(root, PROCESSOR, MI300, MI300), {}, packages)
    assert isinstance(found, Found)
    assert found.score == 100
    assert found.facts["gpus"] == "gfx942, gfx942"
    assert found.facts["torch's HIP"] == "7.1.25424"
    assert "no AMD GPU has run it" in found.facts["support"]


def test_no_gpu_is_said_so_with_a_remedy(root, packages):
    absent = look(root, {}, packages)
    assert isinstance(absent, Absent)
    assert "no /dev/kfd" in absent.reason
    assert "--device=/dev/kfd" in absent.remedy


def test_a_user_without_the_right_group_is_told_which(root, packages):
    absent = look(machine(root, MI300), {}, packages, may_open=lambda path, mode: False)
    assert "may not open /dev/kfd" in absent.reason
    assert "render" in absent.remedy


@pytest.mark.parametrize("name", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpus_are_said_to_be_hidden(root, packages, name, value):
    absent = look(machine(root, MI300), {name: value}, packages)
    assert (absent.reason, absent.remedy) == (f"{name} hides every GPU", f"unset {name}")


def test_a_gpu_without_kernels_is_named_with_those_that_have_them(root, packages):
    absent = look(machine(root, PROCESSOR, VEGA), {}, packages)
    assert absent.reason == "the GPUs here are gfx906; kernels are compiled for gfx90a, gfx942, gfx950, gfx1100"
    assert "--backend reference" in absent.remedy


def test_a_driver_that_lists_no_gpu_is_said_to(root, packages):
    assert "the amdgpu driver lists no GPU" in look(machine(root, PROCESSOR), {}, packages).reason


def test_one_gpu_with_kernels_among_others_is_enough(root, packages):
    assert isinstance(look(machine(root, VEGA, MI200), {}, packages), Found)


def test_the_instruction_set_that_a_user_sets_counts(root, packages):
    found = look(machine(root, 110003), {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}, packages)
    assert found.facts["gpus"] == "gfx1100"


@pytest.mark.parametrize("hip", ["None", None], ids=["built for something else", "not installed"])
def test_a_torch_without_rocm_is_refused_with_what_to_install(root, packages, tmp_path, hip):
    torch = built_for(tmp_path / "other", hip) if hip else None
    absent = look(machine(root, MI300), {}, packages._replace(torch=torch))
    assert absent.reason == "torch is not installed, or is a build without ROCm"
    assert "AMD's build of torch" in absent.remedy


def test_a_missing_triton_is_named(root, packages):
    assert "triton is not installed" in look(machine(root, MI300), {}, packages._replace(triton=None)).reason


@pytest.mark.parametrize(
    ("version", "family"),
    [((9, 4, 2), "gfx942"), ((9, 0, 10), "gfx90a"), ((9, 5, 0), "gfx950"), ((11, 0, 0), "gfx1100")],
)
def test_versions_are_named_as_compilers_name_them(version, family):
    assert manifest.family_of(*version) == family


def test_it_was_built_for_this_contract():
    assert manifest.API == API_VERSION


def test_looking_imports_no_torch():
    code = "import sys, quire_rocm.manifest as m; m.probe(); print(*{'torch', 'triton', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
