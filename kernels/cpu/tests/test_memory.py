"""The allocator of huge pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from quire.backend.contract import Allocator
from quire.errors import CapacityError
from quire_kernels_cpu.memory import ALIGNMENT, HUGE_PAGE, HugePageAllocator


@pytest.fixture
def allocator() -> HugePageAllocator:
    return HugePageAllocator()


def test_it_is_an_allocator(allocator):
    for name in (name for name in vars(Allocator) if not name.startswith("_")):
        assert hasattr(allocator, name)


def test_tensors_are_apart_and_aligned(allocator):
    tensors = [allocator.allocate("weights", shape, torch.bfloat16) for shape in ((3, 5), (1,), (7, 11))]
    for value, tensor in enumerate(tensors):
        tensor.fill_(value)
    assert [tensor.unique().item() for tensor in tensors] == [0, 1, 2]
    assert all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)
    assert allocator.used_bytes("weights") == 2 * (15 + 1 + 77)


def test_an_empty_tensor_takes_nothing(allocator):
    assert allocator.allocate("kv", (0, 4), torch.float32).shape == (0, 4)
    assert allocator.used_bytes("kv") == 0


def test_a_tensor_may_be_larger_than_a_chunk(allocator):
    tensor = allocator.allocate("kv", ((65 << 20) + 3,), torch.uint8)
    assert tensor.numel() == (65 << 20) + 3


def test_kept_bytes_come_back(allocator):
    tensor = allocator.allocate("weights", (1000,), torch.float32).copy_(torch.arange(1000.0))
    assert allocator.suspend("weights", keep=True) == 4000
    assert allocator.used_bytes("weights") == 0
    assert not tensor.any()
    allocator.resume("weights")
    assert torch.equal(tensor, torch.arange(1000.0))
    assert allocator.used_bytes("weights") == 4000


def test_bytes_that_are_not_kept_are_zeros(allocator):
    tensor = allocator.allocate("kv", (1000,), torch.float32).fill_(1)
    allocator.suspend("kv", keep=False)
    allocator.resume("kv")
    assert not tensor.any()


def test_suspending_gives_memory_back_to_the_system(allocator):
    size = 32 << 20
    allocator.allocate("kv", (size,), torch.uint8).fill_(1)
    before = resident_bytes()
    allocator.suspend("kv", keep=False)
    assert before - resident_bytes() > size - HUGE_PAGE


def test_suspending_twice_or_nothing_is_harmless(allocator):
    assert allocator.suspend("kv", keep=True) == 0
    allocator.allocate("kv", (10,), torch.uint8)
    assert [allocator.suspend("kv", keep=True) for _ in range(2)] == [10, 0]
    allocator.resume("kv")
    allocator.resume("kv")


def test_a_suspended_region_takes_no_more(allocator):
    allocator.allocate("kv", (10,), torch.uint8)
    allocator.suspend("kv", keep=False)
    with pytest.raises(AssertionError, match="suspended"):
        allocator.allocate("kv", (10,), torch.uint8)


def test_a_released_region_starts_anew(allocator):
    allocator.allocate("kv", (10,), torch.uint8)
    allocator.release("kv")
    assert allocator.used_bytes("kv") == 0


def test_too_much_is_refused_in_words(allocator):
    with pytest.raises(CapacityError, match="no room for .* GiB of weights in host memory"):
        allocator.allocate("weights", (1 << 62,), torch.uint8)


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024
