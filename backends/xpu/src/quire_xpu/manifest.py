"""Manifest of the xpu backend: looks for Intel GPUs, their driver and a torch built for them, and imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from quire.backend.contract import Absent, Found
from quire.backend.probing import has_library, package_folder, torch_built_for

API = (1, 0)
PLUGIN = "quire_xpu.plugin:XpuBackend"
SCORE = 100
SUPPORT = "kernels run on Triton's interpreter, the backend's code on a stand-in device; no Intel GPU has run it"
VENDOR = "0x8086"
DRIVER = "libze_intel_gpu.so.1"
SELECTOR = "ONEAPI_DEVICE_SELECTOR"
INSTALL = "install Intel's build of torch (torch 2.11 to 2.13 from the XPU index that pytorch.org names)"


class Packages(NamedTuple):
    """Folders of what the backend stands on; None: not installed."""

    torch: Path | None
    triton: Path | None


def probe() -> Found | Absent:
    """Find an Intel GPU that this process may use, its driver, and torch and triton to drive it with."""
    return look(Path("/"), os.environ, Packages(package_folder("torch"), package_folder("triton")), has_library)


def look(
    root: Path, environment: Mapping[str, str], packages: Packages, has_driver: Callable[[str], bool]
) -> Found | Absent:
    """Say what is found below `root`, in an environment, with these packages; `has_driver` looks for a library."""
    gpus = find_gpus(root)
    if not gpus:
        return Absent("no Intel GPU is here (no card of vendor 0x8086)", "give a container --device=/dev/dri")
    selector = environment.get(SELECTOR, "*:*")
    if not re.search(r"(level_zero|\*):", selector):
        return Absent(f"{SELECTOR} is {selector!r}, which leaves no Level Zero device", f"unset {SELECTOR}")
    if not has_driver(DRIVER):
        return Absent(f"the driver library {DRIVER} cannot be loaded", "install Intel's compute runtime (Level Zero)")
    version = torch_built_for("xpu", packages.torch)
    if version is None:
        return Absent("torch is not installed, or is a build without XPU", INSTALL)
    if packages.triton is None:
        return Absent("triton is not installed; Intel's build of torch brings its own", INSTALL)
    return Found(SCORE, {"gpus": ", ".join(gpus), "torch's SYCL": version, "support": SUPPORT})


def find_gpus(root: Path) -> list[str]:
    """Return the cards of Intel's that have a render node, each with its PCI id, e.g. card0 (0xe20b)."""
    found = []
    for device in sorted(root.glob("sys/class/drm/card*/device")):
        card = device.parent.name
        if re.fullmatch(r"card\d+", card) and _read(device / "vendor") == VENDOR and list(device.glob("drm/renderD*")):
            found.append(f"{card} ({_read(device / 'device')})")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
