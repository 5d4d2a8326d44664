"""Manifest of the cuda backend: looks for a GPU, its driver and a torch built for it, and imports nothing of torch.

The driver is not initialised: a process that has done so can no longer fork workers that use the GPU.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from quire.backend.contract import Absent, Found
from quire.backend.probing import has_library, package_folder, torch_built_for

API = (1, 0)
PLUGIN = "quire_cuda.plugin:CudaBackend"
SCORE = 100
SUPPORT = "measured on NVIDIA H100 and H200"
DRIVER = "libcuda.so.1"
INSTALL = "pip install 'quire[cuda]'"


def probe() -> Found | Absent:
    """Find a GPU that this process may use, its driver, and torch and triton to drive it with."""
    gpus = find_gpus()
    if not gpus:
        return Absent("no NVIDIA GPU is here (no /dev/nvidia0)", "run on a machine, or in a container, with a GPU")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Absent("CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    if not has_library(DRIVER):
        return Absent(f"the driver library {DRIVER} cannot be loaded", "install NVIDIA's driver")
    toolkit = torch_built_for("cuda", package_folder("torch"))
    if toolkit is None:
        return Absent("torch is not installed, or is a build without CUDA", INSTALL)
    if package_folder("triton") is None:
        return Absent("triton is not installed", INSTALL)
    return Found(SCORE, {"gpus": str(len(gpus)), "driver": driver_version(), "torch's CUDA": toolkit})


def find_gpus(devices: Path = Path("/dev")) -> list[str]:
    """Return the names of the GPUs' device files."""
    if (devices / "dxg").exists():  # a Linux guest of Windows has this one instead
        return ["dxg"]
    return sorted(path.name for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the kernel driver's version, where it says so."""
    found = re.search(r"Kernel Module.*?(\d+\.\d+[.\d]*)", file.read_text()) if file.exists() else None
    return found[1] if found else "unknown"
