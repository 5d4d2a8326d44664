"""The manifest says what it sees, and what to do about what it does not."""

from __future__ import annotations

import subprocess
import sys

from quire.backend.contract import Absent
from quire_cuda import manifest


def test_gpus_are_found_by_their_device_files(tmp_path):
    for name in ("nvidia0", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert manifest.find_gpus(tmp_path) == ["nvidia0", "nvidia10"]


def test_a_guest_of_windows_has_one_device_file_for_all(tmp_path):
    (tmp_path / "dxg").touch()
    assert manifest.find_gpus(tmp_path) == ["dxg"]


def test_no_gpu_is_said_so_with_a_remedy(monkeypatch):
    monkeypatch.setattr(manifest, "find_gpus", list)
    answer = manifest.probe()
    assert isinstance(answer, Absent)
    assert "no NVIDIA GPU" in answer.reason
    assert answer.remedy


def test_hidden_gpus_are_said_to_be_hidden(monkeypatch):
    monkeypatch.setattr(manifest, "find_gpus", lambda: ["nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in manifest.probe().reason


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setattr(manifest, "find_gpus", lambda: ["nvidia0"])
    monkeypatch.setattr(manifest, "DRIVER", "libno-such-driver.so.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "libno-such-driver.so.1" in manifest.probe().reason


def test_the_drivers_version_is_read_where_it_stands(tmp_path):
    file = tmp_path / "version"
    assert manifest.driver_version(file) == "unknown"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC 14.2.0\n")
    assert manifest.driver_version(file) == "580.159.04"


def test_looking_imports_no_torch():
    code = "import sys, quire_cuda.manifest as m; m.probe(); print(*{'torch', 'triton', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
