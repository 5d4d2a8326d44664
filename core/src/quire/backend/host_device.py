"""The host's own processors as a device: for the reference backend, and for any that computes in host memory."""

from __future__ import annotations

import torch

from quire.backend.contract import MemoryInfo
from quire.backend.host_memory import host_memory


class HostDevice:
    """The host's processors as a device: work is done when its call returns, so nothing waits. Made to be extended."""

    def __init__(self) -> None:
        self.name = f"host, {torch.get_num_threads()} threads"
        self.torch_device = torch.device("cpu")

    def synchronize(self) -> None:
        """Return at once."""

    def memory_info(self) -> MemoryInfo:
        """Return the host memory that this process may still take."""
        return host_memory()

    def seed(self, seed: int) -> None:
        """Seed torch's global generator; sampling does not use it."""
        torch.manual_seed(seed)

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a plain tensor of zeros."""
        return torch.zeros(shape, dtype=dtype)

    def to_device(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy now."""
        target.copy_(source)

    def to_host(self, source: torch.Tensor) -> FinishedRead:
        """Copy now: the source's memory may be written again by the next step."""
        return FinishedRead(source.clone())


class FinishedRead:
    """A copy that is done."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def wait(self) -> torch.Tensor:
        """Return the host tensor."""
        return self._tensor
