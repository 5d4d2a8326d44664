"""HIP's virtual memory management, whose calls and structures follow CUDA's (ROCm 5.2's still did not).

Others have found on MI300 that memory released behind reserved addresses stays taken until the addresses are given back
too (vLLM, pull requests 37533 and 46203), so `keeps_released`.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from quire.backend.accelerator.mapped_memory import Driver
from quire.errors import BackendError

LIBRARY = "libamdhip64"


def load_driver(maps: Path = Path("/proc/self/maps")) -> Driver:
    """Open the library that torch has loaded, wherever it lies: a second one would know none of torch's memory."""
    library = ctypes.CDLL(find_library(LIBRARY, maps))
    library.hipGetErrorString.restype = ctypes.c_char_p
    return Driver(library, "hip", explain, "__cuda_array_interface__", keeps_released=True)


def find_library(name: str, maps: Path) -> str:
    """Return the path of a library that this process has loaded. Raise BackendError if it has not."""
    found = re.search(rf"\S*/{name}[^/\s]*\.so\S*$", maps.read_text(), re.MULTILINE)
    if found is None:
        raise BackendError(f"memory=mapped needs {name}, which torch has not loaded: is it AMD's build of torch?")
    return found[0]


def explain(library: ctypes.CDLL, code: int) -> str:
    """Return what an error code means."""
    return (library.hipGetErrorString(ctypes.c_int(code)) or b"unknown").decode()
