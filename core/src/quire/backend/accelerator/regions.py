"""Tagged regions of device memory that can be given back and taken again at the same addresses.

A region is a list of chunks; tensors are cut from the last, or get one of their own if large. A chunk's addresses
live as long as any tensor that was cut from it.
"""

from __future__ import annotations

import math
import weakref
from typing import Protocol

import torch

from quire.errors import CapacityError

ALIGNMENT = 256  # bytes; what the vendors' allocators give, and what kernels are compiled to expect
CHUNK_BYTES = 64 << 20
LOWER = {
    "weights": "use a smaller model or a narrower dtype, or spread the model over more GPUs",
    "kv": "lower memory_utilization or max_model_len",
    "workspace": "lower memory_utilization, max_num_batched_tokens or max_num_seqs",
}


class Memory(Protocol):
    """Address ranges and the bytes behind them; see `MappedMemory`."""

    granularity: int

    def reserve(self, num_bytes: int) -> int: ...
    def map(self, address: int, num_bytes: int) -> int: ...
    def unmap(self, address: int, num_bytes: int, handle: int) -> None: ...
    def free(self, address: int, num_bytes: int) -> None: ...

    def tensor(self, chunk: Chunk) -> torch.Tensor:
        """Return a mapped chunk as uint8; it stays alive as long as the tensor or a view of it."""
        ...


class Chunk:
    """One range of addresses, mapped or not."""

    def __init__(self, memory: Memory, num_bytes: int) -> None:
        self.num_bytes = -(-num_bytes // memory.granularity) * memory.granularity
        self.address = memory.reserve(self.num_bytes)
        self.used_bytes = 0
        self.saved: torch.Tensor | None = None
        self._memory = memory
        self._handles: list[int] = []  # one while mapped
        # At exit the driver takes everything back by itself, maybe before this would.
        weakref.finalize(self, _free, memory, self.address, self.num_bytes, self._handles).atexit = False
        self.map()

    def map(self) -> None:
        self._handles.append(self._memory.map(self.address, self.num_bytes))

    def unmap(self) -> None:
        self._memory.unmap(self.address, self.num_bytes, self._handles.pop())


class RegionAllocator:
    """The contract's Allocator. `place` names the device in messages."""

    def __init__(self, memory: Memory, place: str) -> None:
        self._memory = memory
        self._place = place
        self._chunks: dict[str, list[Chunk]] = {}
        self._suspended: set[str] = set()

    def allocate(self, tag: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor. Raise CapacityError saying what was asked and what to lower."""
        assert tag not in self._suspended, f"region {tag!r} is suspended"
        num_bytes = max(1, math.prod(shape) * dtype.itemsize)
        chunk = self._chunk_with_room(tag, num_bytes)
        start = chunk.used_bytes
        chunk.used_bytes += -(-num_bytes // ALIGNMENT) * ALIGNMENT
        data = self._memory.tensor(chunk)[start : start + math.prod(shape) * dtype.itemsize]
        return data.view(dtype).view(shape)

    def used_bytes(self, tag: str) -> int:
        """Return the bytes that the region's tensors take, aligned; a suspended region uses none."""
        return 0 if tag in self._suspended else sum(chunk.used_bytes for chunk in self._chunks.get(tag, ()))

    def suspend(self, tag: str, keep: bool) -> int:
        """Give the region's memory back, saving its bytes on the host if `keep`; return the bytes freed."""
        if tag in self._suspended:
            return 0
        freed = self._held_bytes(tag)
        for chunk in self._chunks.get(tag, ()):
            chunk.saved = self._memory.tensor(chunk)[: chunk.used_bytes].to("cpu", copy=True) if keep else None
        for chunk in self._chunks.get(tag, ()):
            chunk.unmap()
        self._suspended.add(tag)
        return freed

    def resume(self, tag: str) -> None:
        """Take memory for a suspended region at its old addresses, and put its saved bytes back."""
        if tag not in self._suspended:
            return
        self._suspended.discard(tag)
        for chunk in self._chunks.get(tag, ()):
            chunk.map()
            if chunk.saved is not None:
                self._memory.tensor(chunk)[: chunk.used_bytes].copy_(chunk.saved)
                chunk.saved = None

    def release(self, tag: str) -> None:
        """Forget the region; its memory goes when its tensors do."""
        self._chunks.pop(tag, None)
        self._suspended.discard(tag)

    def _chunk_with_room(self, tag: str, num_bytes: int) -> Chunk:
        chunks = self._chunks.setdefault(tag, [])
        if chunks and chunks[-1].num_bytes - chunks[-1].used_bytes >= num_bytes:
            return chunks[-1]
        size = num_bytes if num_bytes > CHUNK_BYTES // 2 else CHUNK_BYTES
        try:
            chunk = Chunk(self._memory, size)
        except CapacityError as error:
            raise CapacityError(self._no_room(tag, size)) from error
        # A chunk of one large tensor is full: small tensors go on filling the one before.
        chunks.insert(len(chunks) - 1 if size == num_bytes and chunks else len(chunks), chunk)
        return chunk

    def _held_bytes(self, tag: str) -> int:
        """Return the bytes taken from the device: whole chunks."""
        return 0 if tag in self._suspended else sum(chunk.num_bytes for chunk in self._chunks.get(tag, ()))

    def _no_room(self, tag: str, num_bytes: int) -> str:
        held = ", ".join(f"{name} {self._held_bytes(name) / 2**30:.2f}" for name in self._chunks)
        wanted = f"no room for {num_bytes / 2**30:.2f} GiB of {tag} on {self._place}"
        return f"{wanted} (GiB held: {held or 'none'}); {LOWER.get(tag, 'lower memory_utilization')}"


def _free(memory: Memory, address: int, num_bytes: int, handles: list[int]) -> None:
    while handles:
        memory.unmap(address, num_bytes, handles.pop())
    memory.free(address, num_bytes)
