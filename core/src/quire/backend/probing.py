"""What a manifest asks of a machine without importing anything: a library, a package, what torch was built for.

Standard library alone: all manifests are asked before any backend is chosen.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path


def has_library(name: str) -> bool:
    """Say whether a shared library can be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def package_folder(name: str) -> Path | None:
    """Return where a package is installed; None: it is not."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def torch_built_for(kind: str, torch: Path | None) -> str | None:
    """Return the version of a vendor's toolkit that torch was built with, from `version.py` in its folder; `kind` is
    torch's name for it. None: it was built without, or there is no torch."""
    file = torch / "version.py" if torch is not None else None
    if file is None or not file.exists():
        return None
    found = re.search(rf"^{kind}\b.*=\s*['\"]([^'\"]+)['\"]", file.read_text(), re.MULTILINE)
    return found[1] if found else None
