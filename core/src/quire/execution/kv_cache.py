"""The KV slab of one rank, and its canonical views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from quire.backend.contract import Allocator, KVLayout

Cache = tuple[torch.Tensor, torch.Tensor]
AXES = ("kv", "block", "head", "slot", "dim")


class KVShape(NamedTuple):
    """Sizes of one layer's slab."""

    num_blocks: int
    num_kv_heads: int
    block_size: int
    head_dim: int


def allocate(
    allocator: Allocator, shape: KVShape, num_layers: int, layout: KVLayout, dtype: torch.dtype
) -> list[Cache]:
    """Return one (key, value) pair of canonical views `[num_blocks, num_kv_heads, block_size, head_dim]` a layer."""
    sizes = dict(zip(AXES, (2, *shape), strict=True))
    physical = tuple(sizes[axis] for axis in layout.order)
    to_canonical = [layout.order.index(axis) for axis in AXES]
    slabs = (allocator.allocate("kv", physical, dtype).permute(to_canonical) for _ in range(num_layers))
    return [(slab[0], slab[1]) for slab in slabs]


def read(cache: Cache, block_ids: Sequence[int]) -> Cache:
    """Return those blocks' keys and values as `[block, head, slot, dim]` on the host."""
    index = torch.tensor(block_ids, dtype=torch.int64, device=cache[0].device)
    return cache[0][index].cpu(), cache[1][index].cpu()
