"""Level 2: memory that is not one's own, not there any more, or not told of."""

from __future__ import annotations

import torch

from quire.backend.contract import MemoryInfo
from quire.backend.defaults import TorchAllocator
from quire.backend.hookspecs import hookimpl
from quire.backend.reference import HostDevice
from quire.execution.torch_executor import TorchExecutor
from seeded_bugs.base import Seeded, with_executor, with_kernel
from seeded_bugs.kernels import reference, slot_by_one


def _with_allocator(make):
    class WithAllocator(Seeded):
        features = frozenset({"sleep"})

        @hookimpl
        def quire_describe(self, selection):
            from dataclasses import replace

            caps = super().quire_describe(selection)
            return replace(caps, features=caps.features | self.features)

        @hookimpl
        def quire_create_allocator(self, device):
            return make(device.torch_device)

    return WithAllocator


class Overlapping(TorchAllocator):
    """Every region is cut from one arena whose end moves by the wrong unit: elements, not bytes."""

    def __init__(self, device):
        super().__init__(device)
        self._arena, self._end = torch.zeros(2**22, dtype=torch.uint8), 0

    def allocate(self, tag, shape, dtype):
        count = torch.Size(shape).numel()
        if count * dtype.itemsize > 2**16:
            return super().allocate(tag, shape, dtype)
        tensor = self._arena[self._end : self._end + count * dtype.itemsize].view(dtype).view(shape)
        self._end += -(-count // 64) * 64
        return tensor


class Leaking(TorchAllocator):
    def release(self, tag):
        """Forget to."""


class CountsNothing(TorchAllocator):
    def used_bytes(self, tag):
        return 0


class Misaligned(TorchAllocator):
    def allocate(self, tag, shape, dtype):
        flat = super().allocate(tag, (torch.Size(shape).numel() + 1,), dtype)
        return flat[1:].view(shape)


class Forgetful(TorchAllocator):
    def suspend(self, tag, keep):
        return super().suspend(tag, keep=False)

    def resume(self, tag):
        super().resume(tag)
        for tensor in self._regions[tag]:
            tensor.zero_()


class RawOutOfMemory(TorchAllocator):
    def allocate(self, tag, shape, dtype):
        tensor = torch.empty(shape, dtype=dtype)
        self._regions.setdefault(tag, []).append(tensor)
        return tensor


OverlappingRegions = _with_allocator(Overlapping)
LeaksRegions = _with_allocator(Leaking)
CountsNoBytes = _with_allocator(CountsNothing)
MisalignedSlab = _with_allocator(Misaligned)
SleepForgets = _with_allocator(Forgetful)
RaisesRawErrors = _with_allocator(RawOutOfMemory)


class BoastfulDevice(HostDevice):
    def memory_info(self):
        return MemoryInfo(2**34, 2**34)


class LiveReads(HostDevice):
    def to_host(self, source):
        read = super().to_host(source)
        read._tensor = source
        return read


class SendsTooLittle(HostDevice):
    def to_device(self, source, target):
        target[..., : source.shape[-1] - 1].copy_(source[..., : source.shape[-1] - 1])


def _with_device(make):
    class WithDevice(Seeded):
        @hookimpl
        def quire_open_device(self, selection, rank):
            return make()

    return WithDevice


BoastsOfMemory = _with_device(BoastfulDevice)
HandsOutLiveMemory = _with_device(LiveReads)
SendsOneTooFew = _with_device(SendsTooLittle)


class CopiesOneLayer(TorchExecutor):
    def _copy_blocks(self, plan):
        pairs = self.runtime.rows.upload(plan.block_copies).long()
        self.runtime.block_copy(*self.runtime.caches[0], pairs)


class ForgetsNewBlocks(TorchExecutor):
    """Blocks that come to a row later are put one entry too early. Tables begin as zeros: what is read instead is
    somebody's block, and not whatever bytes were there."""

    @torch.inference_mode()
    def start(self):
        facts = super().start()
        self.runtime.rows.blocks.zero_()
        return facts

    def _launch(self, plan):
        from dataclasses import replace

        late = plan.new_blocks
        shifted = late._replace(indices=(late.indices - 1).clip(0)) if len(late.rows) else late
        return super()._launch(replace(plan, new_blocks=shifted))


def spills(key, value, key_cache, value_cache, slots):
    reference.kv_write(key, value, key_cache, value_cache, slots)
    last = slots[slots >= 0][-1:] + key_cache.shape[2]
    fits = last < key_cache.shape[0] * key_cache.shape[2]
    reference.kv_write(key[-1:][fits], value[-1:][fits], key_cache, value_cache, last[fits])


CopiesFirstLayerOnly = with_executor(CopiesOneLayer)
BlockTableByOne = with_executor(ForgetsNewBlocks)
SpillsIntoTheNextBlock = with_kernel("kv_write", spills)
SlotByOneInTheExecutor = with_kernel("kv_write", slot_by_one)
