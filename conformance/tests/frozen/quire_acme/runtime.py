"""ACME's device, allocator, programs and collectives."""

from pathlib import Path

import torch

from quire.backend.contract import Bucket, MemoryInfo
from quire.errors import CapacityError


class AcmeDevice:
    def __init__(self, rank):
        self.name = f"ACME 1, chip {rank}"
        self.torch_device = torch.device("cpu")

    def synchronize(self):
        pass

    def memory_info(self):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return MemoryInfo(kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024)

    def seed(self, seed):
        torch.manual_seed(seed)

    def host_buffer(self, shape, dtype):
        return torch.zeros(shape, dtype=dtype)

    def to_device(self, source, target):
        target.copy_(source)

    def to_host(self, source):
        return AcmeRead(source.clone())


class AcmeRead:
    def __init__(self, tensor):
        self.tensor = tensor

    def wait(self):
        return self.tensor


class AcmeAllocator:
    def __init__(self):
        self.regions = {}
        self.saved = {}

    def allocate(self, tag, shape, dtype):
        try:
            tensor = torch.empty(shape, dtype=dtype)
        except RuntimeError as error:
            raise CapacityError(f"the chip has no room for {shape} of {tag}") from error
        self.regions.setdefault(tag, []).append(tensor)
        return tensor

    def used_bytes(self, tag):
        return sum(tensor.untyped_storage().nbytes() for tensor in self.regions.get(tag, []))

    def suspend(self, tag, keep):
        freed = self.used_bytes(tag)
        for tensor in self.regions.get(tag, []):
            storage = tensor.untyped_storage()
            self.saved.setdefault(tag, []).append((storage.nbytes(), tensor.clone() if keep else None))
            storage.resize_(0)
        return freed

    def resume(self, tag):
        for tensor, (num_bytes, kept) in zip(self.regions.get(tag, []), self.saved.pop(tag, []), strict=True):
            tensor.untyped_storage().resize_(num_bytes)
            if kept is not None:
                tensor.copy_(kept)

    def release(self, tag):
        self.regions.pop(tag, None)
        self.saved.pop(tag, None)


class AcmeProgramBuilder:
    """Decode buckets of 1, 2, 4 and 8 rows; anything else runs as it comes."""

    def buckets(self, max_tokens, max_rows):
        return [Bucket(size, size, True) for size in (1, 2, 4, 8) if size <= min(max_tokens, max_rows)]

    def build(self, step_fn, bucket, example):
        assert len(example.positions) == bucket.num_tokens
        return step_fn


class AcmeCommunicator:
    rank = 0
    size = 1

    def all_reduce(self, tensor):
        return tensor

    def all_gather(self, tensor, dim):
        return tensor

    def reduce_scatter(self, tensor, dim):
        return tensor

    def broadcast(self, tensor, source):
        return tensor

    def barrier(self):
        pass

    def close(self):
        pass
