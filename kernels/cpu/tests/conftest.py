"""One thread, unless a test is about threads: small inputs need no second one, and tests run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch

from quire.ops.spec import AttentionBatch
from quire_kernels_cpu.isa import cpu_flags, usable_variants
from quire_kernels_cpu.kernels import CpuKernels
from quire_kernels_cpu.library import load_library


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=usable_variants(cpu_flags()))
def kernels(request: pytest.FixtureRequest) -> CpuKernels:
    """The kernels of each instruction set that this machine can run."""
    return CpuKernels(load_library(request.param))


@pytest.fixture(scope="session")
def best_kernels() -> CpuKernels:
    return CpuKernels(load_library())


@pytest.fixture(scope="session")
def attention_input() -> Callable[..., AttentionInput]:
    """Make arguments of paged_attention up to `scale`."""
    return make_attention_input


class AttentionInput(NamedTuple):
    """Arguments of paged_attention up to `scale`."""

    query: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    batch: AttentionBatch
    scale: float


def make_attention_input(
    rows: list[tuple[int, int]], num_heads: int = 4, num_kv_heads: int = 2, head_dim: int = 64, block_size: int = 16
) -> AttentionInput:
    """Make float32 rows of (query tokens, length) over blocks in order."""
    generator = torch.Generator().manual_seed(0)
    owned = [-(-seq_len // block_size) for _, seq_len in rows]
    cache = torch.randn(2, sum(owned), num_kv_heads, block_size, head_dim, generator=generator)
    block_table = torch.zeros(len(rows), max(owned), dtype=torch.int32)
    for row, ids in enumerate(torch.arange(sum(owned), dtype=torch.int32).split(owned)):
        block_table[row, : len(ids)] = ids
    starts = torch.tensor([0, *(n for n, _ in rows)]).cumsum(0).int()
    seq_lens = torch.tensor([seq_len for _, seq_len in rows], dtype=torch.int32)
    slots = torch.zeros(int(starts[-1]), dtype=torch.int64)
    batch = AttentionBatch(starts, seq_lens, block_table, slots, max(n for n, _ in rows), int(seq_lens.max()))
    query = torch.randn(int(starts[-1]), num_heads, head_dim, generator=generator)
    return AttentionInput(query, cache[0], cache[1], batch, head_dim**-0.5)
