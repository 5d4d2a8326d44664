"""The hooks of the emulated backend."""

from __future__ import annotations

import os
from pathlib import Path

from emulated.emulator import load_emulated
from quire_kernels_cpu.library import Library
from quire_ppc64le.backend import Ppc64leBackend

FOLDER = "QUIRE_EMULATED"
"""Environment variable that names the folder of the driver and the libraries."""


class EmulatedBackend(Ppc64leBackend):
    """One opened backend. The option `isa` chooses the library, and with it the processor."""

    def __init__(self) -> None:
        super().__init__()
        self._processor = self._processor._replace(model="POWER, emulated by qemu")

    def load(self, isa: str | None) -> Library:
        """Load a library into a process of its own."""
        return load_emulated(Path(os.environ[FOLDER]), isa or self.variants[-1])
