"""One GPU: pinned host buffers, copies in stream order, memory figures."""

from __future__ import annotations

import torch

from quire.backend.contract import HostRead, MemoryInfo
from quire.errors import BackendError


class CudaDevice:
    """GPU number `index` of this process. Everything runs in order on torch's current stream."""

    def __init__(self, index: int) -> None:
        count = torch.cuda.device_count()
        if index >= count:
            raise BackendError(f"GPU {index} was asked for, and {count} are visible; lower the number of ranks")
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        self.name = torch.cuda.get_device_name(index)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def memory_info(self) -> MemoryInfo:
        """Return what torch's cache could give back and the driver still has, and the whole."""
        torch.cuda.empty_cache()
        return MemoryInfo(*torch.cuda.mem_get_info(self.torch_device))

    def seed(self, seed: int) -> None:
        torch.cuda.manual_seed(seed)

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return page-locked memory. torch keeps it for reuse, not before copies from it have ended."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def to_device(self, source: torch.Tensor, target: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def to_host(self, source: torch.Tensor) -> HostRead:
        return HostCopy(source)


class HostCopy:
    """A device→host copy under way."""

    def __init__(self, source: torch.Tensor) -> None:
        self._target = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        self._target.copy_(source, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record()

    def wait(self) -> torch.Tensor:
        self._done.synchronize()
        return self._target
