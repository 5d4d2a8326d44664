"""Manifest of the rocm backend: looks for AMD GPUs and a torch built for them, and imports nothing of torch.

The kernel driver tells each GPU's instruction set, so no library is loaded and nothing is initialised.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from quire.backend.contract import Absent, Found
from quire.backend.probing import package_folder, torch_built_for

API = (1, 0)
PLUGIN = "quire_rocm.plugin:RocmBackend"
SCORE = 100
SUPPORT = "compiles for gfx90a, gfx942, gfx950 and gfx1100; kernels run on Triton's interpreter; no AMD GPU has run it"
FAMILIES = ("gfx90a", "gfx942", "gfx950", "gfx1100")
"""Instruction sets that every kernel is compiled for in the tests, within the limits of their memory."""

HIDING = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
ANYWHERE = "--backend reference runs anywhere, slowly"
INSTALL = "install AMD's build of torch (torch 2.11 to 2.13 from the ROCm index that pytorch.org names)"


class Packages(NamedTuple):
    """Folders of what the backend stands on; None: not installed."""

    torch: Path | None
    triton: Path | None


def probe() -> Found | Absent:
    """Find an AMD GPU that this process may use, and torch and triton to drive it with."""
    return look(Path("/"), os.environ, Packages(package_folder("torch"), package_folder("triton")))


def look(
    root: Path,
    environment: Mapping[str, str],
    packages: Packages,
    may_open: Callable[[Path, int], bool] = os.access,
) -> Found | Absent:
    """Say what is found below `root`, in an environment, with these packages."""
    device = root / "dev/kfd"
    if not device.exists():
        return Absent(
            "no AMD GPU is here (no /dev/kfd)", "load the amdgpu driver, or give a container --device=/dev/kfd"
        )
    if not may_open(device, os.R_OK | os.W_OK):
        return Absent("this user may not open /dev/kfd", "usermod -aG render,video USER, or run as one who may")
    hidden = [name for name in HIDING if environment.get(name) in ("", "-1")]
    if hidden:
        return Absent(f"{hidden[0]} hides every GPU", f"unset {hidden[0]}")
    families = find_families(root, environment)
    if not set(families) & set(FAMILIES):
        here = f"the GPUs here are {', '.join(families)}" if families else "the amdgpu driver lists no GPU"
        return Absent(f"{here}; kernels are compiled for {', '.join(FAMILIES)}", ANYWHERE)
    version = torch_built_for("hip", packages.torch)
    if version is None:
        return Absent("torch is not installed, or is a build without ROCm", INSTALL)
    if packages.triton is None:
        return Absent("triton is not installed; AMD's build of torch brings its own", INSTALL)
    return Found(SCORE, {"gpus": ", ".join(families), "torch's HIP": version, "support": SUPPORT})


def find_families(root: Path, environment: Mapping[str, str]) -> list[str]:
    """Return the instruction set of each GPU that the kernel driver lists, e.g. gfx942."""
    nodes = sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"))
    versions = [_version(path.read_text()) for path in nodes]
    found = [family_of(*divmod(version // 100, 100), version % 100) for version in versions if version]
    override = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", environment.get(OVERRIDE, ""))
    return [family_of(*map(int, override.groups()))] * len(found) if override else found


def family_of(major: int, minor: int, stepping: int) -> str:
    """Return a version's name: the last two figures are written in base 16."""
    return f"gfx{major}{minor:x}{stepping:x}"


def _version(properties: str) -> int:
    """Return a node's `gfx_target_version`, e.g. 90402; 0 for a processor."""
    found = re.search(r"^gfx_target_version (\d+)$", properties, re.MULTILINE)
    return int(found[1]) if found else 0
