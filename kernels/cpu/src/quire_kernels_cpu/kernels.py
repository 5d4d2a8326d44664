"""The ops as Python callables over one library: they pass pointers and strides, and allocate the output.

Nothing is checked here: constraints were, when the op was bound. Tensors are CPU tensors whose last dim is contiguous.
Signatures and shapes are those of `quire.ops.spec`.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import Tensor, get_num_threads

from quire.ops.spec import AttentionBatch
from quire_kernels_cpu.arena import Arena
from quire_kernels_cpu.library import Library
from quire_kernels_cpu.panels import PanelPacker, PanelWeight
from quire_kernels_cpu.step_kernels import CODES, StepKernels

SILU, GELU, GELU_TANH = range(3)  # Activation in csrc/layer.h
STREAM, WIDEN, PANELS = range(3)  # LinearForm in csrc/linear.h
ACTIVATIONS = {None: -1, "silu_and_mul": SILU, "gelu_and_mul": GELU, "gelu_tanh_and_mul": GELU_TANH}

STREAM_ROWS = 16
"""So many rows of x stream a weight that is not in panels; for more, panels are made on the way. See bench/."""

ARENA_ELEMENTS = 1 << 18
"""Outputs of so many elements lie in the arena; malloc is quicker for smaller ones, by 6 us."""

SCRATCH_BYTES = 16 << 20
"""The most that rows of x take when a product lays them out anew, as floats at the widest: more rows are multiplied
part by part. Weights are then read again for each part, which takes no time beside the product of 300 rows."""


class CpuKernels(StepKernels):
    """Ops over `library`. Bound methods are the kernels."""

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        self._linear = library.function("linear")
        self._paged_attention = library.function("paged_attention")
        self._kv_write = library.function("kv_write")
        self._qkv_rope_write = library.function("qkv_rope_write")
        self._rope = library.function("rope")
        self._norm_linear = library.function("norm_linear")
        self._rms_norm = library.function("rms_norm")
        self._add_rms_norm = library.function("add_rms_norm")
        self._gated = library.function("gated")
        self._embedding = library.function("embedding")
        self._moe = library.function("moe")
        self.pack_weight = PanelPacker(library).pack
        self._arena = Arena()

    def new_output(self, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of that shape, uninitialised. What a recorded program will keep is not the arena's."""
        if prod(shape) < ARENA_ELEMENTS or self.library.listeners:
            return like.new_empty(shape)
        return self._arena.empty(shape, like.dtype)

    def linear(self, x: Tensor, weight: Tensor | PanelWeight, bias: Tensor | None = None) -> Tensor:
        if weight.__class__ is PanelWeight:
            form, weight = PANELS, weight.data
        else:
            form = WIDEN if x.shape[0] > STREAM_ROWS else STREAM
        out = self.new_output(x, x.shape[0], weight.shape[0])
        self.run_linear(x, weight, bias, out, form)
        return out

    def run_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, form: int) -> None:
        """Write the product to `out`."""
        num_tokens, in_features = x.shape
        for first, count in row_parts(num_tokens, in_features):
            self._linear(
                x.data_ptr() + first * x.stride(0) * x.itemsize,
                weight.data_ptr(),
                0 if bias is None else bias.data_ptr(),
                out.data_ptr() + first * out.stride(0) * out.itemsize,
                count,
                weight.shape[0],
                in_features,
                x.stride(0),
                weight.stride(0),
                out.stride(0),
                CODES[x.dtype],
                CODES[weight.dtype],
                form,
                get_num_threads(),
            )

    def norm_linear(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm_weight: Tensor,
        eps: float,
        weight: Tensor | PanelWeight,
        bias: Tensor | None,
        activation: str | None,
    ) -> tuple[Tensor, Tensor]:
        """Work in place: residual becomes the sum. Many tokens take the three steps one by one, if not in panels."""
        num_tokens, in_features = x.shape
        form = STREAM
        if weight.__class__ is PanelWeight:
            form, weight = PANELS, weight.data
        elif num_tokens > STREAM_ROWS:
            return self._norm_linear_steps(x, residual, norm_weight, eps, weight, bias, activation)
        x, residual = x.contiguous(), None if residual is None else residual.contiguous()
        out_features = weight.shape[0]
        out = self.new_output(x, num_tokens, out_features if activation is None else out_features // 2)
        for first, count in row_parts(num_tokens, in_features):
            row = first * in_features * x.itemsize
            self._norm_linear(
                x.data_ptr() + row,
                0 if residual is None else residual.data_ptr() + row,
                norm_weight.data_ptr(),
                weight.data_ptr(),
                0 if bias is None else bias.data_ptr(),
                out.data_ptr() + first * out.stride(0) * out.itemsize,
                CODES[x.dtype],
                CODES[norm_weight.dtype],
                count,
                out_features,
                in_features,
                ACTIVATIONS[activation],
                form,
                get_num_threads(),
                eps,
            )
        return out, x if residual is None else residual

    def _norm_linear_steps(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm_weight: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
        activation: str | None,
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            normed, total = self.rms_norm(x, norm_weight, eps), x
        else:
            normed, total = self.add_rms_norm(x, residual, norm_weight, eps)
        product = self.linear(normed, weight, bias)
        return (product if activation is None else self._gate(product, ACTIVATIONS[activation])), total

    def embedding(self, ids: Tensor, weight: Tensor) -> Tensor:
        out = self.new_output(weight, ids.shape[0], weight.shape[1])
        row_bytes = weight.shape[1] * weight.element_size()
        self._embedding(ids.data_ptr(), weight.data_ptr(), out.data_ptr(), ids.shape[0], row_bytes, get_num_threads())
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        out = self.new_output(x, *x.shape)
        size = x.shape[-1]
        self._rms_norm(
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            CODES[x.dtype],
            CODES[weight.dtype],
            x.numel() // size,
            size,
            get_num_threads(),
            eps,
        )
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Work in place: x becomes the norm, residual the sum."""
        x, residual = x.contiguous(), residual.contiguous()
        self._add_rms_norm(
            x.data_ptr(),
            residual.data_ptr(),
            weight.data_ptr(),
            CODES[x.dtype],
            CODES[weight.dtype],
            x.shape[0],
            x.shape[1],
            get_num_threads(),
            eps,
        )
        return x, residual

    def rope(self, query: Tensor, key: Tensor, positions: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate in place."""
        num_tokens, num_heads, head_dim = query.shape
        self._rope(
            query.data_ptr(),
            key.data_ptr(),
            positions.data_ptr(),
            cos_sin.data_ptr(),
            CODES[query.dtype],
            cos_sin.shape[1],
            num_tokens,
            num_heads,
            key.shape[1],
            head_dim,
            query.stride(0),
            query.stride(1),
            key.stride(0),
            key.stride(1),
            get_num_threads(),
        )
        return query, key

    def kv_write(self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor) -> None:
        num_tokens, num_kv_heads, head_dim = key.shape
        key_block, key_head, key_slot, _ = key_cache.stride()
        value_block, value_head, value_slot, _ = value_cache.stride()
        self._kv_write(
            key.data_ptr(),
            value.data_ptr(),
            key_cache.data_ptr(),
            value_cache.data_ptr(),
            slots.data_ptr(),
            CODES[key.dtype],
            num_tokens,
            num_kv_heads,
            head_dim,
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            CODES[key_cache.dtype],
            key_cache.shape[2],
            key_block,
            key_head,
            key_slot,
            value_block,
            value_head,
            value_slot,
            get_num_threads(),
        )

    def qkv_rope_write(
        self,
        qkv: Tensor,
        positions: Tensor,
        cos_sin: Tensor,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        eps: float,
        key_cache: Tensor,
        value_cache: Tensor,
        slots: Tensor,
    ) -> Tensor:
        num_tokens, width = qkv.shape
        _, num_kv_heads, block_size, head_dim = key_cache.shape
        num_heads = width // head_dim - 2 * num_kv_heads
        key_block, key_head, key_slot, _ = key_cache.stride()
        value_block, value_head, value_slot, _ = value_cache.stride()
        query = self.new_output(qkv, num_tokens, num_heads, head_dim)
        self._qkv_rope_write(
            qkv.data_ptr(),
            positions.data_ptr(),
            cos_sin.data_ptr(),
            0 if q_norm is None else q_norm.data_ptr(),
            0 if k_norm is None else k_norm.data_ptr(),
            key_cache.data_ptr(),
            value_cache.data_ptr(),
            slots.data_ptr(),
            query.data_ptr(),
            CODES[qkv.dtype],
            0 if q_norm is None else CODES[q_norm.dtype],
            qkv.stride(0),
            cos_sin.shape[1],
            num_tokens,
            num_heads,
            num_kv_heads,
            head_dim,
            CODES[key_cache.dtype],
            block_size,
            key_block,
            key_head,
            key_slot,
            value_block,
            value_head,
            value_slot,
            get_num_threads(),
            eps,
        )
        return query

    def paged_attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: AttentionBatch,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        num_tokens, num_heads, head_dim = query.shape
        key_block, key_head, key_slot, _ = key_cache.stride()
        value_block, value_head, value_slot, _ = value_cache.stride()
        sinks = None if sinks is None else sinks.float()
        out = self.new_output(query, num_tokens, num_heads, head_dim)
        self._paged_attention(
            query.data_ptr(),
            key_cache.data_ptr(),
            value_cache.data_ptr(),
            out.data_ptr(),
            batch.query_start.data_ptr(),
            batch.seq_lens.data_ptr(),
            batch.block_table.data_ptr(),
            0 if sinks is None else sinks.data_ptr(),
            CODES[query.dtype],
            CODES[key_cache.dtype],
            batch.seq_lens.shape[0],
            num_heads,
            key_cache.shape[1],
            head_dim,
            key_cache.shape[2],
            query.stride(0),
            query.stride(1),
            key_block,
            key_head,
            key_slot,
            value_block,
            value_head,
            value_slot,
            batch.block_table.stride(0),
            window or 0,
            get_num_threads(),
            scale,
            soft_cap or 0.0,
        )
        return out

    def silu_and_mul(self, x: Tensor) -> Tensor:
        return self._gate(x, SILU)

    def gelu_and_mul(self, x: Tensor) -> Tensor:
        return self._gate(x, GELU)

    def gelu_tanh_and_mul(self, x: Tensor) -> Tensor:
        return self._gate(x, GELU_TANH)

    def _gate(self, x: Tensor, activation: int) -> Tensor:
        x = x.contiguous()
        rows, size = x.shape[0], x.shape[1] // 2
        out = self.new_output(x, rows, size)
        self._gated(x.data_ptr(), out.data_ptr(), activation, CODES[x.dtype], rows, size, get_num_threads())
        return out

    def moe(self, x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        x, weights, experts = x.contiguous(), weights.float().contiguous(), experts.contiguous()
        out = self.new_output(x, *x.shape)
        self._moe(
            x.data_ptr(),
            weights.data_ptr(),
            experts.data_ptr(),
            gate_up.data_ptr(),
            down.data_ptr(),
            out.data_ptr(),
            CODES[x.dtype],
            x.shape[0],
            experts.shape[1],
            gate_up.shape[0],
            x.shape[1],
            down.shape[2],
            get_num_threads(),
        )
        return out


def row_parts(num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    """Return the first row and the number of rows of each part, as even as can be, that fits into SCRATCH_BYTES."""
    at_once = max(1, SCRATCH_BYTES // (4 * num_columns))
    if num_rows <= at_once:
        return [(0, num_rows)]
    num_parts = -(-num_rows // at_once)
    starts = [part * num_rows // num_parts for part in range(num_parts + 1)]
    return [(start, end - start) for start, end in pairwise(starts)]
