"""Level 2: bytes. What is allocated is one's own, what is copied is what was there, what is reported is true."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import Allocator
from quire.errors import CapacityError
from quire_conformance.claims import claims
from quire_conformance.regions import pattern, spans_overlap
from quire_conformance.target import Target

pytestmark = claims("bytes")
TAGS = ("weights", "kv", "workspace")
SHAPES = ((1,), (97,), (64, 33), (3, 5, 7))
STEP_BYTES, NUM_STEPS = 256 * 2**20, 6
IMPOSSIBLE = (2**20, 2**20, 2**15)  # 2**55 elements


@pytest.fixture
def allocator(target: Target) -> Allocator:
    return target.backend.create_allocator(target.device)


def allocate_all(allocator: Allocator, dtype: torch.dtype = torch.float32) -> list[tuple[str, torch.Tensor]]:
    return [(tag, allocator.allocate(tag, shape, dtype)) for tag in TAGS for shape in SHAPES]


# -- the allocator -----------------------------------------------------------------------------------------------------


def test_tensors_have_the_shape_dtype_and_device_that_were_asked(target: Target, allocator: Allocator) -> None:
    for dtype in (torch.float32, torch.int32, torch.int64, *(getattr(torch, name) for name in target.caps.dtypes)):
        tensor = allocator.allocate("workspace", (3, 5), dtype)
        assert tuple(tensor.shape) == (3, 5), f"(3, 5) was asked, the allocator gave {tuple(tensor.shape)}"
        assert tensor.dtype == dtype, f"{dtype} was asked, the allocator gave {tensor.dtype}"
        assert tensor.device.type == target.caps.device_type, f"the allocator gave a tensor on {tensor.device}"


def test_no_two_tensors_share_bytes(allocator: Allocator) -> None:
    tensors = allocate_all(allocator)
    for index, (tag, tensor) in enumerate(tensors):
        for other_tag, other in tensors[:index]:
            assert not spans_overlap(tensor, other), f"allocations of {tag} and {other_tag} overlap: they share bytes"
    for index, (_, tensor) in enumerate(tensors):
        tensor.fill_(index)
    wrong = [tag for index, (tag, tensor) in enumerate(tensors) if not bool((tensor == index).all())]
    assert not wrong, f"allocations overlap: what was written to another tensor appears in {wrong}"


def test_used_bytes_count_what_was_allocated_by_tag(allocator: Allocator) -> None:
    assert all(allocator.used_bytes(tag) == 0 for tag in TAGS), "a new allocator uses bytes already"
    tensors = allocate_all(allocator)
    for tag in TAGS:
        needed = sum(tensor.nbytes for name, tensor in tensors if name == tag)
        used = allocator.used_bytes(tag)
        assert needed <= used <= 2 * needed + 4096 * len(SHAPES), f"{tag}: {needed} bytes asked, used_bytes says {used}"


def test_a_released_region_uses_nothing_and_leaves_the_others(allocator: Allocator) -> None:
    tensors = allocate_all(allocator)
    kept = allocator.used_bytes("weights")
    allocator.release("kv")
    left = allocator.used_bytes("kv")
    assert left == 0, f"the released region kv still uses {left} bytes: it leaks"
    assert allocator.used_bytes("weights") == kept, "releasing kv changed weights"
    assert len(tensors) == len(TAGS) * len(SHAPES), "tensors live until here"


def test_a_released_region_can_be_allocated_again(allocator: Allocator) -> None:
    allocate_all(allocator)
    allocator.release("kv")
    again = allocator.allocate("kv", (64, 33), torch.float32)
    again.fill_(3)
    assert allocator.used_bytes("kv") >= again.nbytes, "an allocation after a release is not counted"


def test_the_kv_slab_is_aligned_as_the_constraints_say(target: Target, allocator: Allocator) -> None:
    for shape in SHAPES:
        address = allocator.allocate("kv", shape, torch.float32).data_ptr()
        assert address % target.kv.alignment_bytes == 0, (
            f"alignment_bytes is {target.kv.alignment_bytes}, but the allocator gave kv at address {address:#x}"
        )


def test_too_much_is_refused_cleanly(allocator: Allocator) -> None:
    try:
        allocator.allocate("kv", IMPOSSIBLE, torch.float32)
    except CapacityError:
        pass
    except Exception as error:
        pytest.fail(
            f"out of memory must be raised as CapacityError, the allocator raised {type(error).__name__}: {error}"
        )
    else:
        pytest.fail("the allocator promised 128 PiB")
    assert allocator.used_bytes("kv") == 0, "a refused allocation is counted"
    assert allocator.allocate("kv", (7,), torch.float32).fill_(1).sum() == 7, "nothing can be allocated after a refusal"


@claims("sleep")
@pytest.mark.parametrize("tag", TAGS)
def test_a_suspended_region_comes_back_byte_for_byte(allocator: Allocator, tag: str) -> None:
    tensors = allocate_all(allocator)
    for index, (_, tensor) in enumerate(tensors):
        tensor.copy_(pattern(tensor, index))
    freed = allocator.suspend(tag, keep=True)
    assert freed > 0, f"suspending {tag} freed {freed} bytes"
    assert allocator.used_bytes(tag) == 0, f"suspended, {tag} still uses {allocator.used_bytes(tag)} bytes"
    allocator.resume(tag)
    wrong = [name for index, (name, tensor) in enumerate(tensors) if not torch.equal(tensor, pattern(tensor, index))]
    assert not wrong, f"after suspend and resume of {tag}, bytes of {wrong} are lost"


# -- the device --------------------------------------------------------------------------------------------------------


def test_memory_info_is_within_the_device(target: Target) -> None:
    free, total = target.device.memory_info()
    assert 0 < free <= total, f"memory_info says {free} bytes free of {total}"


def test_memory_info_sees_allocations(target: Target, allocator: Allocator) -> None:
    """More and more is taken and kept: a kernel's own reserves, and what others do on a shared host, blur one look."""
    before = target.device.memory_info().free_bytes
    step, seen, regions = min(STEP_BYTES, before // 16), [], []
    for count in range(1, NUM_STEPS + 1):
        regions.append(allocator.allocate("workspace", (step,), torch.uint8).fill_(1))
        target.device.synchronize()
        seen.append(before - target.device.memory_info().free_bytes)
        if 0.5 * step * count < seen[-1] < 1.5 * step * count:
            return
    shown = [f"{number / 2**20:.0f}" for number in seen]
    pytest.fail(f"memory_info does not tell the truth: {step >> 20} MiB were taken each time, free sank by {shown} MiB")


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32], ids=str)
def test_what_goes_to_the_device_comes_back(target: Target, dtype: torch.dtype) -> None:
    device = target.device
    host = device.host_buffer((97,), dtype)
    assert (tuple(host.shape), host.dtype, host.device.type) == ((97,), dtype, "cpu"), f"host_buffer gave {host}"
    host.copy_(torch.arange(97))
    there = torch.empty((97,), dtype=dtype, device=device.torch_device)
    device.to_device(host, there)
    assert torch.equal(device.to_host(there).wait(), host), "bytes change on the way to the device and back"


def test_part_of_a_host_buffer_can_be_sent(target: Target) -> None:
    device = target.device
    host = device.host_buffer((64,), torch.int32)
    host.copy_(torch.arange(64))
    there = torch.full((64,), -1, dtype=torch.int32, device=device.torch_device)
    device.to_device(host[:13], there[:13])
    back = device.to_host(there).wait()
    assert back[:13].tolist() == list(range(13)), "the part that was sent did not arrive"
    assert bool((back[13:] == -1).all()), "to_device wrote past the part that was sent"


def test_a_read_is_of_the_moment_when_it_began(target: Target) -> None:
    device = target.device
    there = torch.zeros(97, device=device.torch_device)
    read = device.to_host(there)
    there.fill_(5)
    device.synchronize()
    assert not bool(read.wait().any()), (
        "to_host hands out live memory: the next step's writes appear in a read that began before them"
    )
