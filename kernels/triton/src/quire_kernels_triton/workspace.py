"""Counters that kernels of one stream share: by one, the last program of a group to end finds that it is the last."""

from __future__ import annotations

import torch

MIN_COUNTERS = 1 << 14


class Counters:
    """Zeros on each device, never given back: a captured launch may hold their address.

    Thread: launches that use the same counters must be in order, on one stream.
    """

    def __init__(self) -> None:
        self._buffers: dict[torch.device, list[torch.Tensor]] = {}

    def take(self, device: torch.device, count: int) -> torch.Tensor:
        """Return at least `count` int32 zeros."""
        buffers = self._buffers.setdefault(device, [])
        if not buffers or len(buffers[-1]) < count:
            buffers.append(torch.zeros(max(count, MIN_COUNTERS), dtype=torch.int32, device=device))
        return buffers[-1]
