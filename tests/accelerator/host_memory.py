"""Address ranges of the host, for the allocator's tests: what is mapped is filled with a pattern."""

from __future__ import annotations

import ctypes
import mmap

import torch

from quire.backend.accelerator.regions import Chunk
from quire.errors import CapacityError

PATTERN = 0xA5


class HostMemory:
    """Counts what is reserved and mapped; maps at most `limit` bytes."""

    granularity = 4096

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.mapped_bytes = 0
        self.ranges: dict[int, mmap.mmap] = {}

    def reserve(self, num_bytes: int) -> int:
        area = mmap.mmap(-1, num_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        self.ranges[address] = area
        return address

    def map(self, address: int, num_bytes: int) -> int:
        if self.mapped_bytes + num_bytes > self.limit:
            raise CapacityError("the host's limit")
        self.mapped_bytes += num_bytes
        ctypes.memset(address, PATTERN, num_bytes)  # whatever was there before is gone
        return 7

    def unmap(self, address: int, num_bytes: int, handle: int) -> None:
        assert handle == 7
        self.mapped_bytes -= num_bytes
        ctypes.memset(address, 0, num_bytes)

    def free(self, address: int, num_bytes: int) -> None:
        del self.ranges[address]

    def tensor(self, chunk: Chunk) -> torch.Tensor:
        data = (ctypes.c_ubyte * chunk.num_bytes).from_address(chunk.address)
        data.chunk = chunk
        return torch.frombuffer(data, dtype=torch.uint8)
