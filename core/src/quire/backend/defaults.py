"""What a backend gets where it fills in no hook: allocation by torch, eager programs, collectives over gloo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed

from quire.backend.contract import Allocator, Bucket, Communicator, Device, Program, ProgramBuilder, StepFunction
from quire.errors import BackendError, CapacityError

if TYPE_CHECKING:
    from quire.backend.contract import Executor, ExecutorContext
    from quire.backend.manager import OpenBackend


def create_allocator(device: Device) -> Allocator:
    """Return an allocator on `device.torch_device`."""
    return TorchAllocator(device.torch_device)


def create_program_builder() -> ProgramBuilder:
    """Return a builder that runs step functions as they are."""
    return EagerProgramBuilder()


def create_executor(context: ExecutorContext, backend: OpenBackend) -> Executor:
    """Return the core's own executor."""
    from quire.execution.torch_executor import TorchExecutor

    return TorchExecutor(context, backend)


def create_communicator(group: Sequence[int]) -> Communicator:
    """Return collectives for `group`, the ranks of it in this job's process group.

    Raises BackendError when there are several ranks and no process group has been initialised.
    """
    if len(group) == 1:
        return LocalCommunicator()
    if not torch.distributed.is_initialized():
        raise BackendError(f"ranks {list(group)} need torch.distributed; call init_process_group before opening ranks")
    return GlooCommunicator(group)


class TorchAllocator:
    """Tensors by region. Suspending empties their storages, resuming fills them again: tensors and views stay valid."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._regions: dict[str, list[torch.Tensor]] = {}
        self._suspended: dict[str, list[tuple[int, torch.Tensor | None]]] = {}  # (bytes, saved copy) of each tensor

    def allocate(self, tag: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor. Raise CapacityError when the device has no room."""
        assert tag not in self._suspended, f"region {tag!r} is suspended"
        try:
            tensor = torch.empty(shape, dtype=dtype, device=self._device)
        except RuntimeError as error:  # torch's out-of-memory errors are RuntimeErrors on every device
            wanted = math.prod(shape) * dtype.itemsize
            raise CapacityError(f"no room for {wanted / 2**30:.2f} GiB of {tag} on {self._device}") from error
        self._regions.setdefault(tag, []).append(tensor)
        return tensor

    def used_bytes(self, tag: str) -> int:
        """Return the bytes held now; a suspended region holds none."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._regions.get(tag, ()))

    def suspend(self, tag: str, keep: bool) -> int:
        """Give the region's memory back, saving its bytes on the host if `keep`; return the bytes freed."""
        freed = self.used_bytes(tag)
        if tag not in self._suspended:
            self._suspended[tag] = [_empty(tensor, keep) for tensor in self._regions.get(tag, ())]
        return freed

    def resume(self, tag: str) -> None:
        """Take memory again for a suspended region and put its saved bytes back."""
        if tag not in self._suspended:
            return
        for tensor, (num_bytes, saved) in zip(self._regions.get(tag, ()), self._suspended.pop(tag), strict=True):
            tensor.untyped_storage().resize_(num_bytes)
            if saved is not None:
                tensor.copy_(saved)

    def release(self, tag: str) -> None:
        """Forget the region; its memory goes when its tensors do."""
        self._regions.pop(tag, None)
        self._suspended.pop(tag, None)


class EagerProgramBuilder:
    """No buckets: every step runs unpadded, by calling the step function."""

    def buckets(self, max_tokens: int, max_rows: int) -> Sequence[Bucket]:
        return ()

    def build(self, step_fn: StepFunction, bucket: Bucket, example: object) -> Program:
        return step_fn


class LocalCommunicator:
    """The collectives of one rank alone: nothing moves."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return tensor

    def reduce_scatter(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return tensor

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        return tensor

    def barrier(self) -> None:
        return None

    def close(self) -> None:
        return None


class GlooCommunicator:
    """Collectives over gloo, through host memory where the tensor lives elsewhere. `source` counts within the group."""

    def __init__(self, group: Sequence[int]) -> None:
        self._ranks = list(group)
        self._group = torch.distributed.new_group(ranks=self._ranks, backend="gloo")
        self.rank = torch.distributed.get_rank(self._group)
        self.size = len(self._ranks)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        host = tensor.detach().to("cpu", copy=True).contiguous()
        torch.distributed.all_reduce(host, group=self._group)
        return host.to(tensor.device)

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        host = tensor.detach().to("cpu").contiguous()
        parts = [torch.empty_like(host) for _ in self._ranks]
        torch.distributed.all_gather(parts, host, group=self._group)
        return torch.cat(parts, dim).to(tensor.device)

    def reduce_scatter(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        assert tensor.shape[dim] % self.size == 0, f"axis {dim} of {tuple(tensor.shape)} does not divide by {self.size}"
        return self.all_reduce(tensor).chunk(self.size, dim)[self.rank].contiguous()

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        host = tensor.detach().to("cpu", copy=True).contiguous()
        torch.distributed.broadcast(host, src=self._ranks[source], group=self._group)
        return host.to(tensor.device)

    def barrier(self) -> None:
        torch.distributed.barrier(group=self._group)

    def close(self) -> None:
        torch.distributed.destroy_process_group(self._group)


def _empty(tensor: torch.Tensor, keep: bool) -> tuple[int, torch.Tensor | None]:
    saved = tensor.detach().to("cpu", copy=True) if keep else None
    storage = tensor.untyped_storage()
    num_bytes = storage.nbytes()
    storage.resize_(0)
    return num_bytes, saved
