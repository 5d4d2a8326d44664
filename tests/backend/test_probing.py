"""What manifests look at is only looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quire.backend.probing import has_library, package_folder, torch_built_for


def test_a_library_is_there_or_is_not():
    assert has_library("libc.so.6")
    assert not has_library("libno-such-driver.so.1")


def test_a_package_is_found_by_name():
    assert (package_folder("json") / "decoder.py").exists()
    assert package_folder("no_such_package") is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("chip: Optional[str] = None\nother: Optional[str] = '7.0'\n", None),
        ("debug = False\nchip: Optional[str] = '13.0'\nother: Optional[str] = None\n", "13.0"),
        ("chip = '7.1.25424-4179531dcd'\n", "7.1.25424-4179531dcd"),
        ("chips = '1'\n", None),
    ],
)
def test_what_torch_was_built_for_is_read_from_its_version_file(tmp_path, text, version):
    (tmp_path / "version.py").write_text(text)
    assert torch_built_for("chip", tmp_path) == version


def test_without_torch_there_is_no_version(tmp_path):
    assert torch_built_for("chip", None) is None
    assert torch_built_for("chip", tmp_path) is None


def test_looking_imports_nothing_of_torch():
    code = "import sys, quire.backend.probing as p; p.package_folder('torch'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
