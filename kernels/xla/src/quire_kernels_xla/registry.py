"""The kernels as a backend registers them: torch's arguments in, JAX kernels beneath, written tensors written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from quire.backend.contract import Kernel, KernelRegistrar
from quire.ops.spec import AttentionBatch
from quire_kernels_xla import attention, cache, sampling
from quire_kernels_xla import experts as mixture
from quire_kernels_xla.bridge import call

FLOATS = ("float32", "bfloat16", "float16")


class XlaKernels:
    """The kernels. `find_device` names where they run when they are called outside of a program. `unroll`: programs
    have no loops, for compilers that take none. `pallas`: attention is the TPU's own kernel, where that can serve."""

    def __init__(self, find_device: Callable[[], Any], unroll: bool = False, pallas: bool = False) -> None:
        self._call = partial(call, find_device)
        self._unroll = unroll
        self._pallas = pallas

    def paged_attention(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return causal attention [T, Hq, D] of ragged rows over paged KV."""
        where = (batch.query_start, batch.seq_lens, batch.block_table)
        asked: dict[str, Any] = {"scale": scale, "window": window, "soft_cap": soft_cap}
        if self._pallas and sinks is None:
            from quire_kernels_xla import pallas

            asked["decode"] = batch.max_query_len == 1 and query.shape[0] == batch.seq_lens.shape[0]
            return self._call(pallas.paged_attention, query, key_cache, value_cache, *where, **asked)
        asked["unroll"] = self._unroll
        return self._call(attention.paged_attention, query, key_cache, value_cache, *where, sinks, **asked)

    def kv_write(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        """Write key and value [T, Hk, D] to `slots` [T]. Mutates key_cache, value_cache."""
        written = self._call(cache.kv_write, key, value, key_cache, value_cache, slots)
        for target, values in zip((key_cache, value_cache), written, strict=True):
            target.copy_(values)

    def block_copy(self, key_cache: torch.Tensor, value_cache: torch.Tensor, pairs: torch.Tensor) -> None:
        """Copy block ``pairs[i, 0]`` over block ``pairs[i, 1]``. Mutates key_cache, value_cache."""
        written = self._call(cache.block_copy, key_cache, value_cache, pairs)
        for target, values in zip((key_cache, value_cache), written, strict=True):
            target.copy_(values)

    def moe(
        self,
        x: torch.Tensor,
        weights: torch.Tensor,
        experts: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
    ) -> torch.Tensor:
        """Return the weighted sum [T, H] of each token's SwiGLU experts."""
        return self._call(mixture.moe, x, weights, experts, gate_up, down, unroll=self._unroll)

    def sample(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        min_p: torch.Tensor,
        seeds: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Return one token id [R] int64 for each row of logits [R, V]."""
        settings = (logits, temperature, top_k, top_p, min_p)
        drawn = self._call(sampling.sample, *settings, words(seeds), words(positions), unroll=self._unroll)
        return drawn.long()

    def register(self, table: KernelRegistrar, provider: str) -> None:
        """Register every kernel for a backend."""
        for op in ("paged_attention", "kv_write", "block_copy"):
            table.register(Kernel(op, provider, getattr(self, op), FLOATS))
        table.register(Kernel("moe", provider, self.moe, FLOATS))
        table.register(Kernel("sample", provider, self.sample, ("float32",)))


def words(values: torch.Tensor) -> torch.Tensor:
    """Return integers [R] as their low and high words, [R, 2] int32. Those of an executor's tables are so already."""
    if values.dim() == 2:
        return values
    if values.dtype is torch.int64:
        return values.contiguous().view(torch.int32).view(-1, 2)
    return torch.stack((values, torch.zeros_like(values)), dim=-1)
