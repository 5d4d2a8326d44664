"""What a model is built from (`ModelContext`), what it must offer (`DecoderModel`), and how its weights are described.

The backend owns all bytes: a layer states each weight as a `Parameter`; the loader allocates it through the context,
fills it, and hands it to the layer, which may have it repacked for its kernel and then drops the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from quire.backend.contract import KernelRequest
from quire.models.checkpoint import TensorSource
from quire.ops.spec import AttentionBatch
from quire.ops.table import KernelTable, Resolution

Allocate = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
Cache = tuple[torch.Tensor, torch.Tensor]


def _torch_allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


@dataclass(frozen=True, slots=True)
class ModelContext:
    """The kernels, the dtype and the device of a model, and where its bytes come from.

    `max_model_len` (tokens) sizes the rotary tables and chooses between a checkpoint's short and long frequencies;
    None: the longest that the checkpoint was made for. `kv_dtype` (None: the model's dtype) and `block_size` are the KV
    cache's, for kernels that limit them.
    """

    table: KernelTable
    dtype: torch.dtype
    device: torch.device
    allocate: Allocate = _torch_allocate
    max_model_len: int | None = None
    kv_dtype: torch.dtype | None = None
    block_size: int | None = None

    @property
    def dtype_name(self) -> str:
        """Return the model's dtype by torch's name."""
        return _name(self.dtype)

    def cache_attributes(self) -> dict[str, Any]:
        """Return what is known of the KV cache, as attributes of requests."""
        known = {"kv_dtype": _name(self.kv_dtype or self.dtype)}
        return known if self.block_size is None else {**known, "block_size": self.block_size}

    def request(self, op: str, **attributes: Any) -> KernelRequest:
        """Return a kernel request in the model's dtype."""
        return KernelRequest(op, self.dtype_name, attributes)

    def resolve(self, op: str, **attributes: Any) -> Resolution:
        """Choose the kernel for a layer, with its weight transform. Raise KernelError if none can serve."""
        return self.table.resolve(self.request(op, **attributes))

    def bind(self, op: str, **attributes: Any) -> Callable[..., Any]:
        """Return the callable that serves an op for a layer. Raise KernelError if none can."""
        return self.resolve(op, **attributes).function


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Source(NamedTuple):
    """A checkpoint tensor, and the place in the parameter that it fills (an index; `()`: all of it)."""

    name: str
    place: tuple[int | slice, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One weight: its shape, the checkpoint tensors that make it up, and the layer's function that takes it.

    `offset` is added after loading (norms that are stored as weight - 1). `center` and `std` are for dummy weights.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: tuple[Source, ...]
    allocate: Allocate
    install: Callable[[torch.Tensor], None]
    offset: float = 0.0
    center: float = 0.0
    std: float = 0.02


class DecoderModel(Protocol):
    """A decoder that can be run. Inference only: the caller enters `torch.inference_mode`."""

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """Return parts of names: checkpoint tensors that contain one are not missed."""
        ...

    def open_weights(self, path: Path) -> AbstractContextManager[TensorSource]:
        """Open the folder's tensors, by the names that parameters give as their sources. Raise ModelError."""
        ...

    def parameters(self) -> Iterator[Parameter]:
        """Yield every weight once, in the order of the layers."""
        ...

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        caches: Sequence[Cache],
        batch: AttentionBatch,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states `[T, H]`, normed, of the ragged tokens `input_ids` `[T]` at `positions` `[T]`;
        with `wanted` `[S]`, indices of tokens, theirs alone `[S, H]`.

        Mutates: `caches`, one pair `[num_blocks, num_kv_heads, block_size, head_dim]` for each layer, at `batch.slots`.
        """
        ...

    @property
    def logits_dtype(self) -> torch.dtype:
        """Return the dtype of `raw_logits`."""
        ...

    def raw_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits `[S, V]` of hidden states `[S, H]` in the dtype in which they are computed."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the same logits in float32."""
        ...
