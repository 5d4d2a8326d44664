"""XLA's devices, by platform."""

from __future__ import annotations

import os
from typing import Any

import jax
import torch

from quire.backend.contract import MemoryInfo
from quire.backend.host_device import HostDevice
from quire.backend.host_memory import host_memory
from quire.errors import BackendError
from quire_kernels_xla.bridge import Tracer
from quire_kernels_xla.session import Check, Session
from quire_kernels_xla.tables import State

PLATFORM = "PJRT_DEVICE"


class XlaDevice(HostDevice):
    """One device of XLA's. No tensor of torch's lies on it: what crosses by the contract's copies stays on the host."""

    torch_device: torch.device = None  # type: ignore[assignment]

    def __init__(self, jax_device: Any) -> None:
        self.jax_device = jax_device
        emulated = " (emulated on the host)" if jax_device.platform == "cpu" else ""
        self.name = f"XLA {jax_device.device_kind} {jax_device.id}{emulated}"

    def memory_info(self) -> MemoryInfo:
        """Return what is free on the chip; of the CPU device, on the host."""
        stats = self.jax_device.memory_stats() if self.jax_device.platform != "cpu" else None
        if stats is None:
            return host_memory()
        return MemoryInfo(stats["bytes_limit"] - stats["bytes_in_use"], stats["bytes_limit"])

    def seed(self, seed: int) -> None:
        """Do nothing: draws are keyed by each request's own seed."""

    def open_session(
        self,
        weights: list[torch.Tensor],
        handles: State,
        *,
        exact: bool,
        compiled: bool,
        ahead: bool,
        check: Check,
    ) -> Session:
        """Return what an executor's programs share. What is built here is compiled at once, whatever `ahead` says."""
        return Session(self.jax_device, Tracer(), weights, handles, exact, compiled, check)


def open_device(platform: str, rank: int, runtime: str = "jax") -> Any:
    """Open device number `rank` of a platform. Raise BackendError where there is none, with what to do."""
    try:
        if runtime == "torch_xla":
            return _open_lazily(platform, rank)
        return XlaDevice(find_device(platform, rank))
    except (RuntimeError, IndexError, ImportError, OSError) as error:
        cause = str(error).splitlines()[0]
        emulate = "--backend-option device=cpu runs the same programs on XLA's CPU device"
        raise BackendError(f"XLA finds no {platform} device number {rank} ({cause}); {emulate}") from error


def _open_lazily(platform: str, rank: int) -> Any:
    before = os.environ.get(PLATFORM)
    os.environ[PLATFORM] = platform.upper()  # read when torch_xla is imported, and when it opens its devices
    try:
        from quire_kernels_xla import lazy

        return lazy.open_device(platform, rank)
    finally:
        if before is None:
            del os.environ[PLATFORM]
        else:
            os.environ[PLATFORM] = before


def find_device(platform: str, rank: int) -> Any:
    """Return XLA's device. Raise RuntimeError, IndexError as XLA does.

    jax opens every platform that it can with the first: a process that asks for the CPU first takes no chip.
    """
    if platform == "cpu" and not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")
    return jax.local_devices(backend=platform)[rank if platform != "cpu" else 0]
