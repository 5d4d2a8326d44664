"""Host memory in huge pages, by region.

Streaming weights through 4 KB pages spends as long on address translation as on reading: on a virtual Zen 4 machine one
thread read 9 GB/s through small pages and 19 GB/s through huge ones (bench/memory.py). Regions are private anonymous
mappings advised to be huge, cut into tensors; untouched memory costs nothing. Suspending gives the pages back.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from dataclasses import dataclass, field
from typing import IO

import torch

from quire.errors import CapacityError

HUGE_PAGE = 2 << 20
CHUNK = 64 << 20
ALIGNMENT = 64


@dataclass(slots=True)
class Region:
    """Mappings of one tag: tensors are cut from the last one. `saved` holds each mapping's bytes while suspended, None
    where they were not kept."""

    chunks: list[mmap.mmap] = field(default_factory=list)
    tail: int = 0  # bytes used of the last chunk
    used: int = 0
    saved: list[IO[bytes] | None] | None = None


class HugePageAllocator:
    """Tagged regions of host memory. Tensors stay valid objects while their region is suspended."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def allocate(self, tag: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of zeros. Raise CapacityError when the system has no room."""
        region = self._regions.setdefault(tag, Region())
        assert region.saved is None, f"region {tag!r} is suspended"
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(shape, dtype=dtype)
        start = _reserve(region, num_bytes, tag)
        flat = torch.frombuffer(region.chunks[-1], dtype=dtype, count=math.prod(shape), offset=start)
        region.used += num_bytes
        return flat.view(shape)

    def used_bytes(self, tag: str) -> int:
        """Return the bytes of the region's tensors; a suspended region holds none."""
        region = self._regions.get(tag)
        return 0 if region is None or region.saved is not None else region.used

    def suspend(self, tag: str, keep: bool) -> int:
        """Give the region's pages back, if `keep` after writing them to a temporary file; return the bytes freed."""
        freed, region = self.used_bytes(tag), self._regions.get(tag)
        if region is not None and region.saved is None:
            region.saved = [_save(chunk) if keep else None for chunk in region.chunks]
            for chunk in region.chunks:
                chunk.madvise(mmap.MADV_DONTNEED)
        return freed

    def resume(self, tag: str) -> None:
        """Put the saved bytes back; a region that was not kept is zeros."""
        region = self._regions.get(tag)
        if region is None or region.saved is None:
            return
        for chunk, saved in zip(region.chunks, region.saved, strict=True):
            if saved is not None:
                _restore(chunk, saved)
        region.saved = None

    def release(self, tag: str) -> None:
        """Forget the region; its memory goes when its tensors do."""
        region = self._regions.pop(tag, None)
        for saved in (region.saved or ()) if region is not None else ():
            if saved is not None:
                saved.close()


def _reserve(region: Region, num_bytes: int, tag: str) -> int:
    """Return the offset of free bytes in the region's last chunk, which is made if need be."""
    start = -(-region.tail // ALIGNMENT) * ALIGNMENT
    if not region.chunks or start + num_bytes > len(region.chunks[-1]):
        region.chunks.append(map_huge_pages(max(CHUNK, num_bytes), tag))
        start = 0
    region.tail = start + num_bytes
    return start


def map_huge_pages(num_bytes: int, tag: str) -> mmap.mmap:
    """Return at least so many bytes of memory for `tag`, zeros. Raise CapacityError when the system has no room."""
    size = -(-num_bytes // HUGE_PAGE) * HUGE_PAGE
    try:
        chunk = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise CapacityError(f"no room for {size / 2**30:.2f} GiB of {tag} in host memory") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        chunk.madvise(mmap.MADV_HUGEPAGE)
    return chunk


def _save(chunk: mmap.mmap) -> IO[bytes]:
    saved = tempfile.TemporaryFile()  # noqa: SIM115  closed by _restore
    saved.write(memoryview(chunk))
    return saved


def _restore(chunk: mmap.mmap, saved: IO[bytes]) -> None:
    saved.seek(0)
    saved.readinto(memoryview(chunk))  # type: ignore[attr-defined]
    saved.close()
