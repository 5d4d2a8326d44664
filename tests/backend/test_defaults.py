"""What a backend gets where it fills in no hook."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quire.backend.defaults import EagerProgramBuilder, LocalCommunicator, TorchAllocator, create_communicator
from quire.errors import BackendError, CapacityError


@pytest.fixture
def allocator() -> TorchAllocator:
    return TorchAllocator(torch.device("cpu"))


def test_used_bytes_are_counted_by_region(allocator):
    allocator.allocate("kv", (3, 5), torch.float32)
    allocator.allocate("kv", (7,), torch.bfloat16)
    assert (allocator.used_bytes("kv"), allocator.used_bytes("weights")) == (74, 0)


def test_a_suspended_region_holds_no_memory_and_comes_back_byte_for_byte(allocator):
    tensor = allocator.allocate("weights", (13, 17), torch.float32)
    view = tensor[1:, ::2]
    tensor.copy_(torch.arange(221.0).view(13, 17))
    before = view.clone()
    assert allocator.suspend("weights", keep=True) == 884
    assert allocator.used_bytes("weights") == 0
    allocator.resume("weights")
    assert torch.equal(view, before)
    assert allocator.used_bytes("weights") == 884


def test_what_is_not_kept_comes_back_as_memory_only(allocator):
    tensor = allocator.allocate("kv", (8,), torch.float32)
    allocator.suspend("kv", keep=False)
    allocator.suspend("kv", keep=False)
    allocator.resume("kv")
    allocator.resume("kv")
    tensor.fill_(1)
    assert tensor.sum() == 8


def test_a_released_region_is_forgotten(allocator):
    allocator.allocate("kv", (8,), torch.float32)
    allocator.release("kv")
    assert allocator.used_bytes("kv") == 0


def test_no_room_is_a_capacity_error_that_says_how_much(allocator):
    with pytest.raises(CapacityError, match=r"no room for 4194304.00 GiB of kv on cpu"):
        allocator.allocate("kv", (2**50,), torch.float32)


def test_the_eager_builder_returns_the_function_itself():
    builder = EagerProgramBuilder()
    assert builder.buckets(512, 8) == ()
    assert builder.build(abs, None, None) is abs


def test_one_rank_alone_needs_no_process_group():
    communicator = create_communicator([0])
    tensor = torch.arange(3)
    assert isinstance(communicator, LocalCommunicator)
    assert communicator.all_reduce(tensor) is tensor


def test_several_ranks_without_a_process_group_are_refused():
    with pytest.raises(BackendError, match=r"ranks \[0, 1\] need torch.distributed"):
        create_communicator([0, 1])


def test_two_ranks_over_gloo_agree(tmp_path: Path):
    script = str(Path(__file__).with_name("gloo_rank.py"))
    commands = [[sys.executable, script, str(rank), f"file://{tmp_path}/meet"] for rank in (0, 1)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    first, second = (json.loads(rank.communicate(timeout=120)[0]) for rank in ranks)
    reduced, gathered, copied = [[3.0, 6.0]], [[1.0, 2.0, 2.0, 4.0]], [[2.0, 4.0]]
    assert first == [reduced, gathered, [[3.0]], copied]
    assert second == [reduced, gathered, [[6.0]], copied]
