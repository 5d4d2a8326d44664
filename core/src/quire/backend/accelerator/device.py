"""One accelerator: page-locked host buffers, copies in stream order, memory figures."""

from __future__ import annotations

from types import ModuleType

import torch

from quire.backend.contract import HostRead, MemoryInfo
from quire.errors import BackendError


class AcceleratorDevice:
    """Device number `torch_device.index` of this process. Everything runs in order on torch's current stream.

    `runtime` is torch's module of the device type, as `torch.get_device_module` returns it. `pin_memory`: host buffers
    are page-locked, which copies that do not block need.
    """

    def __init__(self, torch_device: torch.device, runtime: ModuleType, pin_memory: bool = True) -> None:
        index, count = torch_device.index, runtime.device_count()
        if index >= count:
            raise BackendError(f"GPU {index} was asked for, and {count} are visible; lower the number of ranks")
        self.torch_device = torch_device
        self._runtime = runtime
        self._pin_memory = pin_memory
        runtime.set_device(torch_device)
        self.name: str = runtime.get_device_name(index)

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        self._runtime.synchronize(self.torch_device)

    def memory_info(self) -> MemoryInfo:
        """Return what torch's cache could give back and the driver still has, and the whole."""
        self._runtime.empty_cache()
        return MemoryInfo(*self._runtime.mem_get_info(self.torch_device))

    def seed(self, seed: int) -> None:
        """Seed torch's generator of the device; sampling does not use it."""
        self._runtime.manual_seed(seed)

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return page-locked memory. torch keeps it for reuse, not before copies from it have ended."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._pin_memory)

    def to_device(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Begin a copy on the current stream."""
        target.copy_(source, non_blocking=True)

    def to_host(self, source: torch.Tensor) -> HostRead:
        """Begin a copy to the host on the current stream."""
        target = self.host_buffer(tuple(source.shape), source.dtype)
        target.copy_(source, non_blocking=True)
        done = self._runtime.Event()
        done.record()
        return HostCopy(target, done)


class HostCopy:
    """A device→host copy under way; `done` is recorded behind it."""

    def __init__(self, target: torch.Tensor, done: torch.Event) -> None:
        self._target = target
        self._done = done

    def wait(self) -> torch.Tensor:
        """Return the host tensor when it is filled."""
        self._done.synchronize()
        return self._target
