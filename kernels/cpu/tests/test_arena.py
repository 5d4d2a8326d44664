"""Where large outputs lie: apart while they live, and in the same place afterwards."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import KernelRequest
from quire_kernels_cpu.arena import ALIGNMENT, CHUNK, Arena
from quire_kernels_cpu.kernels import ARENA_ELEMENTS, SCRATCH_BYTES, row_parts
from quire_kernels_cpu.recording import Recording

SHAPES = [(1,), (17, 3), (64, 128), (1009, 7, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_are_apart_aligned_and_contiguous(dtype):
    arena = Arena()
    tensors = [arena.empty(shape, dtype) for shape in SHAPES]
    for value, tensor in enumerate(tensors):
        tensor.fill_(value)
    assert [tensor.unique().item() for tensor in tensors] == [0, 1, 2, 3]
    assert [tuple(tensor.shape) for tensor in tensors] == SHAPES
    assert all(tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)


def test_memory_of_a_dead_tensor_is_used_again():
    arena = Arena()
    first = arena.empty((1000,), torch.float32)
    kept = arena.empty((1000,), torch.float32)
    at = first.data_ptr()
    del first
    again = arena.empty((1000,), torch.float32)
    assert again.data_ptr() == at != kept.data_ptr()


def test_a_view_keeps_the_memory():
    arena = Arena()
    whole = arena.empty((10, 100), torch.float32).fill_(3)
    row = whole[7]
    del whole
    arena.empty((10, 100), torch.float32).fill_(4)
    assert row.unique().item() == 3


def test_dead_neighbours_become_room_for_one_that_is_as_large_as_all():
    arena = Arena()
    tensors = [arena.empty((1000,), torch.uint8) for _ in range(5)]
    at, size = tensors[0].data_ptr(), tensors[-1].data_ptr() + 1000 - tensors[0].data_ptr()
    wall = arena.empty((1,), torch.uint8)
    for index in (1, 3, 0, 4, 2):  # the last has neighbours on both sides
        tensors[index] = None
    del tensors
    assert arena.empty((size,), torch.uint8).data_ptr() == at < wall.data_ptr()


def test_a_tensor_may_be_larger_than_a_chunk():
    arena = Arena()
    small, large = arena.empty((1,), torch.uint8), arena.empty((CHUNK + 1,), torch.uint8)
    large[-1] = 1
    assert small.numel() + large.numel() == CHUNK + 2


def test_tensors_outlive_their_arena():
    tensor = Arena().empty((1000,), torch.float32).fill_(5)
    assert tensor.sum().item() == 5000


def test_large_outputs_of_a_kernel_lie_in_the_arena_and_small_ones_do_not(best_kernels):
    weight, rows = torch.ones(64, 8), ARENA_ELEMENTS // 64
    at = best_kernels.linear(torch.ones(rows, 8), weight).data_ptr()
    assert best_kernels.linear(torch.ones(rows, 8), weight).data_ptr() == at
    assert best_kernels.linear(torch.ones(rows - 1, 8), weight).data_ptr() != at


def test_outputs_that_a_recorded_program_keeps_do_not_lie_there(best_kernels):
    like = torch.ones(1)
    at = best_kernels.new_output(like, ARENA_ELEMENTS).data_ptr()
    with Recording(best_kernels.library):
        assert best_kernels.new_output(like, ARENA_ELEMENTS).data_ptr() != at


# -- scratch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, 1023, 1024, 1025, 4099])
def test_parts_are_all_rows_in_order_and_none_is_too_large(num_rows):
    columns = SCRATCH_BYTES // 4 // 1024
    parts = row_parts(num_rows, columns)
    assert [first for first, _ in parts] == [sum(count for _, count in parts[:at]) for at in range(len(parts))]
    assert sum(count for _, count in parts) == num_rows
    assert max(count for _, count in parts) <= 1024
    assert len(parts) == -(-num_rows // 1024)


def test_a_row_larger_than_the_scratch_is_a_part():
    assert row_parts(2, SCRATCH_BYTES) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_parts_are_those_of_the_whole(best_kernels, dtype):
    columns, rows = SCRATCH_BYTES // 4 // 100, 101
    x, weight = torch.randn(rows, columns).to(dtype), torch.randn(64, columns).to(dtype)
    panels = best_kernels.pack_weight(weight.clone(), KernelRequest("linear", "float32"))
    residual, norm = torch.randn(rows, columns).to(dtype), torch.ones(columns).to(dtype)

    def products(some: slice) -> list[torch.Tensor]:
        rest = (norm, 1e-6, panels, None, None)
        plain = [best_kernels.linear(x[some], kind) for kind in (weight, panels)]
        return [*plain, *best_kernels.norm_linear(x[some].clone(), residual[some].clone(), *rest)]

    assert len(row_parts(rows, columns)) == 2
    halves = zip(products(slice(0, 50)), products(slice(50, rows)), strict=True)
    assert all(torch.equal(one, torch.cat(half)) for one, half in zip(products(slice(0, rows)), halves, strict=True))
