"""The allocator on the device: addresses stay, bytes come back, a full device is refused with a reason."""

from __future__ import annotations

import torch

from quire.backend.accelerator.device import AcceleratorDevice
from quire.backend.accelerator.mapped_memory import MappedMemory
from quire.backend.accelerator.regions import RegionAllocator
from quire.errors import CapacityError
from quire_cuda.device import load_driver


def check_memory() -> list[str]:
    """Return what is wrong."""
    device = AcceleratorDevice(torch.device("cuda", 0), torch.cuda)
    allocator = RegionAllocator(MappedMemory(device.torch_device, torch.cuda, load_driver()), device.name)
    shapes = ((3, 5), (1 << 20,), (40 << 20,), (7,), (1, 1))
    tensors = [allocator.allocate("weights", shape, torch.float32).normal_() for shape in shapes]
    scratch = allocator.allocate("kv", (1 << 28,), torch.bfloat16).zero_()
    saved, addresses = [tensor.cpu() for tensor in tensors], [tensor.data_ptr() for tensor in tensors]
    graph, doubled = _captured(tensors[0])
    before = device.memory_info().free_bytes
    freed = allocator.suspend("weights", keep=True) + allocator.suspend("kv", keep=False)
    returned = device.memory_info().free_bytes - before
    allocator.resume("weights")
    allocator.resume("kv")
    scratch.zero_()
    graph.replay()
    checks = {
        "suspend gives back what it says": abs(returned - freed) < (4 << 20),
        "addresses stay": [tensor.data_ptr() for tensor in tensors] == addresses,
        "bytes come back": all(torch.equal(tensor.cpu(), kept) for tensor, kept in zip(tensors, saved, strict=True)),
        "a captured graph still reads them": torch.equal(doubled.cpu(), saved[0] * 2),
        "a full device is refused": _refused(allocator),
    }
    del tensors, scratch, graph, doubled
    allocator.release("weights")
    allocator.release("kv")
    held = device.memory_info().free_bytes - before
    checks["release gives everything back"] = held >= freed - (4 << 20)
    failures = [name for name, right in checks.items() if not right]
    print(f"memory: {len(checks)} checks, {len(failures)} wrong", *failures, sep="\n  ", flush=True)
    return failures


def _captured(source: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        doubled = source * 2
    return graph, doubled


def _refused(allocator: RegionAllocator) -> bool:
    try:
        allocator.allocate("kv", (1 << 40,), torch.int8)
    except CapacityError as error:
        print(f"  refused: {error}")
        return "lower memory_utilization" in str(error)
    return False
