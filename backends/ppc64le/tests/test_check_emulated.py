"""What is said where the cross compiler and the emulator are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).parent / "check_emulated.py"


def test_without_the_tools_it_fails_and_says_what_to_install(tmp_path):
    done = subprocess.run([sys.executable, CHECK], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "powerpc64le-linux-gnu-g++ and qemu-ppc64le-static not found: "
        "apt install g++-powerpc64le-linux-gnu qemu-user-static"
    )
