"""Manifest of the tpu backend: looks for a TPU and the libraries that drive it, and imports none of them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "quire_tpu.plugin:TpuBackend"
SCORE = 100
NEEDED = ("torch", "jax")
RUNTIMES = ("torchax", "torch_xla")  # either runs torch's functions on XLA
INSTALL = "pip install 'quire[tpu]'"
EMULATE = "--backend tpu --backend-option device=cpu runs its programs on XLA's CPU device"
PCI_VENDOR = "0x1ae0"
PCI_DEVICES = frozenset(
    {"0x0027", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
)  # v2 and v3, v4, v5p, v5e, v6e, v7


def probe() -> Found | Absent:
    """Find a TPU with its library; or, for whoever names the backend, the libraries alone: they have a CPU device."""
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if not any(importlib.util.find_spec(module) for module in RUNTIMES):
        missing.append(RUNTIMES[0])
    if missing:
        return Absent(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed", INSTALL)
    chips = find_chips()
    library = importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ
    if not chips or not library:
        lacks = "no TPU is here" if not chips else "a TPU is here, but libtpu is not installed"
        return Found(0, {"chips": lacks, "without one": EMULATE})
    return Found(SCORE, {"chips": str(len(chips))})


def find_chips(root: Path = Path("/")) -> list[str]:
    """Return the names of the chips' device files, or of their PCI functions where they are given to this machine."""
    files = sorted(path.name for path in (root / "dev").glob("accel[0-9]*"))
    return files or sorted(path.name for path in (root / "sys/bus/pci/devices").glob("*") if _is_chip(path))


def _is_chip(function: Path) -> bool:
    try:
        vendor, device = ((function / name).read_text().strip() for name in ("vendor", "device"))
    except OSError:
        return False
    return vendor == PCI_VENDOR and device in PCI_DEVICES
