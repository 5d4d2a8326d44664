"""Regions: tensors do not overlap, addresses stay, bytes come back, memory is given back when nobody has it."""

from __future__ import annotations

import gc

import pytest
import torch

from quire.backend.accelerator import regions as module
from quire.backend.accelerator.regions import ALIGNMENT, RegionAllocator
from quire.backend.contract import Allocator
from quire.errors import CapacityError

SHAPES = ((3, 5), (1,), (7000,), (2, 0), (100, 100), (1, 1, 1))


@pytest.fixture
def memory(monkeypatch, host_memory):
    monkeypatch.setattr(module, "CHUNK_BYTES", 16384)
    return host_memory.HostMemory(1 << 20)


@pytest.fixture
def allocator(memory):
    return RegionAllocator(memory, "a test")


def test_it_keeps_the_contract(allocator):
    assert isinstance(allocator, Allocator)


def test_tensors_are_aligned_and_share_no_byte(allocator):
    tensors = [allocator.allocate("kv", shape, torch.float32) for shape in SHAPES]
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors if tensor.numel())
    assert all(start % ALIGNMENT == 0 for start, _ in spans)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_tensors_have_the_shape_and_dtype_asked_for(allocator, dtype):
    for shape in SHAPES:
        tensor = allocator.allocate("weights", shape, dtype)
        assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)


def test_kept_bytes_come_back_at_the_same_addresses(allocator, memory):
    tensors = [allocator.allocate("weights", shape, torch.float32).normal_() for shape in SHAPES]
    saved, addresses = [tensor.clone() for tensor in tensors], [tensor.data_ptr() for tensor in tensors]
    used = allocator.used_bytes("weights")
    freed = allocator.suspend("weights", keep=True)
    assert memory.mapped_bytes == allocator.used_bytes("weights") == 0
    allocator.resume("weights")
    assert (memory.mapped_bytes, allocator.used_bytes("weights")) == (freed, used)
    assert [tensor.data_ptr() for tensor in tensors] == addresses
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, saved, strict=True))


def test_used_bytes_are_the_tensors_and_not_the_chunks_that_hold_them(allocator, memory):
    allocator.allocate("kv", (1000,), torch.uint8)
    assert allocator.used_bytes("kv") == 4 * ALIGNMENT < memory.mapped_bytes


def test_dropped_bytes_are_gone_but_the_tensors_are_usable(allocator, host_memory):
    tensor = allocator.allocate("kv", (100,), torch.uint8).zero_()
    allocator.suspend("kv", keep=False)
    allocator.resume("kv")
    assert int(tensor[0]) == host_memory.PATTERN
    assert int(tensor.fill_(3).sum()) == 300


def test_one_region_sleeps_and_the_others_do_not(allocator):
    weights = allocator.allocate("weights", (10,), torch.float32).fill_(2)
    allocator.allocate("kv", (10,), torch.float32)
    allocator.suspend("kv", keep=False)
    assert float(weights.sum()) == 20


def test_sleeping_twice_frees_nothing_more_and_waking_twice_does_nothing(allocator):
    allocator.allocate("kv", (10,), torch.float32)
    assert allocator.suspend("kv", keep=False) > 0
    assert allocator.suspend("kv", keep=False) == 0
    allocator.resume("kv")
    allocator.resume("kv")
    assert allocator.used_bytes("kv") > 0


def test_a_full_device_is_refused_with_what_to_lower(allocator, memory):
    allocator.allocate("weights", (1000,), torch.float32)
    with pytest.raises(CapacityError, match=r"no room for .* of kv on a test .*weights.*lower memory_utilization"):
        allocator.allocate("kv", (1 << 21,), torch.uint8)
    gc.collect()
    assert len(memory.ranges) == 1, "addresses that could not be filled are given back"


def test_memory_goes_when_the_region_is_released_and_its_last_tensor_dies(allocator, memory):
    tensor = allocator.allocate("weights", (10,), torch.float32)
    part = tensor[3:5]
    allocator.release("weights")
    del tensor
    gc.collect()
    assert memory.mapped_bytes > 0
    del part
    gc.collect()
    assert memory.mapped_bytes == 0
    assert not memory.ranges


def test_small_tensors_go_on_filling_a_chunk_after_a_large_one(allocator, memory):
    allocator.allocate("weights", (10,), torch.uint8)
    allocator.allocate("weights", (50_000,), torch.uint8)
    before = memory.mapped_bytes
    allocator.allocate("weights", (10,), torch.uint8)
    assert memory.mapped_bytes == before
