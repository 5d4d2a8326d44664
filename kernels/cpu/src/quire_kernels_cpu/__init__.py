"""C++ kernels for CPUs, bound with ctypes: `register(table, provider)` offers them to a backend's kernel table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire_kernels_cpu.kernels import CpuKernels
    from quire_kernels_cpu.library import Library, load_library
    from quire_kernels_cpu.registry import register, register_transforms

__all__ = ["CpuKernels", "Library", "load_library", "register", "register_transforms"]

_HOMES = {
    "CpuKernels": "kernels",
    "Library": "library",
    "load_library": "library",
    "register": "registry",
    "register_transforms": "registry",
}


def __getattr__(name: str) -> object:
    """Import on first use: `quire_kernels_cpu.isa` must cost no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
