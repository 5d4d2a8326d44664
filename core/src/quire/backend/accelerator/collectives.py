"""Collectives on the device, by whichever of torch.distributed's backends the vendor has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from quire.errors import BackendError

# Their names from torch 2.13 on, and before.
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class DeviceCommunicator:
    """Collectives of `group`, ranks of this job's process group. `source` counts within the group.

    `backend` is torch.distributed's name of it. Operations are put on the current stream, so they may stand in a
    captured graph.
    """

    def __init__(self, group: Sequence[int], device: torch.device | None, backend: str) -> None:
        if not dist.is_initialized():
            why = f"ranks {list(group)} need torch.distributed"
            raise BackendError(f"{why}; call init_process_group before opening ranks")
        self._ranks = list(group)
        self._group = dist.new_group(ranks=self._ranks, backend=backend, device_id=device)
        self.rank: int = dist.get_rank(self._group)
        self.size = len(self._ranks)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks."""
        out = _copy(tensor)
        dist.all_reduce(out, group=self._group)
        return out

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the ranks' tensors joined along `dim`."""
        parts = tensor.new_empty((self.size * tensor.shape[0], *tensor.shape[1:]))
        ALL_GATHER(parts, tensor.contiguous(), group=self._group)
        return torch.cat(parts.chunk(self.size), dim)

    def reduce_scatter(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """Return this rank's share, along `dim`, of the sum over ranks."""
        assert tensor.shape[dim] % self.size == 0, f"axis {dim} of {tuple(tensor.shape)} does not divide by {self.size}"
        parts = tensor.chunk(self.size, dim)
        out = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        REDUCE_SCATTER(out, torch.cat(parts), group=self._group)
        return out

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """Return the source's tensor."""
        out = _copy(tensor)
        dist.broadcast(out, src=self._ranks[source], group=self._group)
        return out

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier(group=self._group)

    def close(self) -> None:
        """Give the group back."""
        dist.destroy_process_group(self._group)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy for torch to write to: it works in place, and a caller's tensor is left alone."""
    return tensor.clone(memory_format=torch.contiguous_format)
