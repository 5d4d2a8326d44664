"""Inputs of the ops that write the KV cache, and the caches themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from quire.backend.contract import BLOCK_FIRST, HEAD_MAJOR, SLOT_MAJOR, KernelRequest, KVLayout
from quire.ops.cases.norms import EPS, rotary_table
from quire.ops.cases.source import Source, torch_dtype
from quire.ops.spec import OpCase

CANONICAL = ("kv", "block", "head", "slot", "dim")


class CacheShape(NamedTuple):
    """One layer's cache. `kv_dtype` None: as the op's dtype."""

    num_blocks: int
    num_kv_heads: int
    block_size: int
    head_dim: int
    kv_dtype: str | None = None
    layout: KVLayout = HEAD_MAJOR

    def attributes(self, dtype: str) -> dict[str, object]:
        """Return what a request says of the cache."""
        return {
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "block_size": self.block_size,
            "kv_dtype": self.kv_dtype or dtype,
        }


class Caches(NamedTuple):
    """Key and value cache: canonical strided views of one slab, full of NaN."""

    key_cache: torch.Tensor
    value_cache: torch.Tensor


def empty_caches(shape: CacheShape, dtype: str) -> Caches:
    """Return caches that hold nothing yet: whoever reads a slot that was not written reads NaN."""
    sizes = dict(zip(CANONICAL, (2, *shape[:4]), strict=True))
    slab = torch.full([sizes[axis] for axis in shape.layout.order], float("nan"))
    canonical = slab.to(torch_dtype(shape.kv_dtype or dtype)).permute([shape.layout.order.index(a) for a in CANONICAL])
    return Caches(canonical[0], canonical[1])


CACHE_SHAPES = (
    CacheShape(3, 1, 1, 16),
    CacheShape(5, 4, 16, 64),
    CacheShape(7, 2, 16, 80, layout=SLOT_MAJOR),
    CacheShape(2, 1, 32, 128, layout=BLOCK_FIRST),
    CacheShape(4, 3, 32, 256),
    CacheShape(5, 2, 16, 64, kv_dtype="bfloat16"),
    CacheShape(5, 2, 16, 64, kv_dtype="float32"),
)


def kv_write_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield scattered slots with padding among them, a batch of padding only, keys as views, heads before tokens."""
    source = Source(dtype, seed)
    for shape in CACHE_SHAPES:
        num_slots = shape.num_blocks * shape.block_size
        slots = source.distinct(num_slots, min(num_slots, 13))
        slots[1:2] = -1
        inputs = {**_fused_keys(source, len(slots), shape), **empty_caches(shape, dtype)._asdict(), "slots": slots}
        request = KernelRequest("kv_write", dtype, shape.attributes(dtype))
        yield OpCase(_label(shape, dtype, len(slots)), request, inputs)
    shape = CACHE_SHAPES[1]
    request = KernelRequest("kv_write", dtype, shape.attributes(dtype))
    inputs = {**_fused_keys(source, 3, shape), **empty_caches(shape, dtype)._asdict(), "slots": torch.full((3,), -1)}
    yield OpCase("padding only", request, inputs)
    key, value = (source.normal(4, 5, 64).transpose(0, 1) for _ in range(2))
    inputs = {"key": key, "value": value, **empty_caches(shape, dtype)._asdict(), "slots": source.distinct(80, 5)}
    yield OpCase("heads before tokens", request, inputs)


def block_copy_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield none, one and several copies, one source copied twice among them."""
    source = Source(dtype, seed)
    for shape, pairs in (
        (CacheShape(2, 1, 1, 16), [(0, 1)]),
        (CacheShape(7, 2, 16, 80, layout=SLOT_MAJOR), [(6, 0), (6, 3), (2, 5)]),
        (CacheShape(5, 3, 32, 64, layout=BLOCK_FIRST), [(1, 4)]),
        (CacheShape(3, 1, 16, 128), []),
    ):
        caches = empty_caches(shape, dtype)
        for cache in caches:
            cache.copy_(source.normal(*cache.shape))
        inputs = {**caches._asdict(), "pairs": torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)}
        request = KernelRequest("block_copy", dtype, shape.attributes(dtype))
        yield OpCase(_label(shape, dtype, len(pairs)), request, inputs)


def qkv_rope_write_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield head groups 1, 4 and 7, with and without norms of the heads, partial rotation, padding."""
    source = Source(dtype, seed)
    for num_tokens, num_heads, rotary_dim, norms, shape in (
        (1, 1, 16, False, CacheShape(2, 1, 1, 16)),
        (7, 4, 64, True, CacheShape(5, 4, 16, 64)),
        (13, 8, 80, False, CacheShape(7, 2, 16, 80, layout=SLOT_MAJOR)),
        (5, 7, 128, True, CacheShape(2, 1, 32, 128, layout=BLOCK_FIRST)),
        (3, 2, 256, True, CacheShape(2, 1, 16, 256)),
        (9, 4, 32, False, CacheShape(5, 2, 16, 64, kv_dtype="bfloat16")),
    ):
        slots = source.distinct(shape.num_blocks * shape.block_size, num_tokens)
        slots[1:2] = -1
        head_dim = shape.head_dim
        inputs = {
            "qkv": source.normal(num_tokens, (num_heads + 2 * shape.num_kv_heads) * head_dim),
            "positions": source.integers(211, num_tokens),
            "cos_sin": rotary_table(211, rotary_dim),
            "q_norm": 1 + source.normal(head_dim) if norms else None,
            "k_norm": 1 + source.normal(head_dim) if norms else None,
            "eps": EPS,
            **empty_caches(shape, dtype)._asdict(),
            "slots": slots,
        }
        attributes = {**shape.attributes(dtype), "num_heads": num_heads, "rotary_dim": rotary_dim, "qk_norm": norms}
        label = f"Hq={num_heads} rotary={rotary_dim}{' norms' if norms else ''} {_label(shape, dtype, num_tokens)}"
        yield OpCase(label, KernelRequest("qkv_rope_write", dtype, attributes), inputs)


def _fused_keys(source: Source, num_tokens: int, shape: CacheShape) -> dict[str, torch.Tensor]:
    fused = source.normal(num_tokens, 3 * shape.num_kv_heads, shape.head_dim)
    return dict(zip(("key", "value"), fused.chunk(3, dim=1)[1:], strict=True))


def _label(shape: CacheShape, dtype: str, count: int) -> str:
    kind = {HEAD_MAJOR: "head-major", SLOT_MAJOR: "slot-major", BLOCK_FIRST: "block-first"}[shape.layout]
    return (
        f"n={count} Hk={shape.num_kv_heads} D={shape.head_dim} block={shape.block_size} "
        f"kv={shape.kv_dtype or dtype} {kind}"
    )
