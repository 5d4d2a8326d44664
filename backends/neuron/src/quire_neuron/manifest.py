"""Manifest of the neuron backend: looks for a chip and the libraries, imports none, and says what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "quire_neuron.plugin:NeuronBackend"
SCORE = 0  # only when named, also where a chip is: it has not been run on one
RUNTIME = ("torch", "jax", "torchax")
INSTALL = "pip install 'quire[neuron]'"
PLACEHOLDER = "WRONG PACKAGE"
EMULATE = "--backend neuron --backend-option device=cpu runs its programs on XLA's CPU device"


def probe() -> Found | Absent:
    """Find the libraries, whose CPU device serves whoever names the backend; and say what a chip would need besides."""
    missing = [module for module in RUNTIME if importlib.util.find_spec(module) is None]
    if missing:
        return Absent(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed", INSTALL)
    chips = find_chips()
    facts = {"chips": str(len(chips)) if chips else "none is here (no /dev/neuron0)"}
    if importlib.util.find_spec("libneuronxla") is None:
        facts["driver library"] = "libneuronxla is not installed: it comes with AWS's jax-neuronx and torch-neuronx"
    if is_placeholder():
        facts["torch-neuronx"] = "the installed one is PyPI's placeholder; the real one is in AWS's own package index"
    return Found(SCORE, {**facts, "without a chip": EMULATE})


def find_chips(devices: Path = Path("/dev")) -> list[str]:
    """Return the names of the chips' device files."""
    return sorted(path.name for path in devices.glob("neuron[0-9]*"))


def is_placeholder(module: str = "torch_neuronx") -> bool:
    """Say whether a module is the package that PyPI has in the place of AWS's, which only raises ImportError."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None and PLACEHOLDER in Path(spec.origin).read_text()[:500]
