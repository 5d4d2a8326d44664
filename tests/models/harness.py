"""Drives a DecoderModel with the reference kernels and a paged cache: what an executor does, without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from quire.backend.contract import Kernel
from quire.backend.reference import register_reference_kernels
from quire.models import loader, registry
from quire.models.context import DecoderModel, ModelContext
from quire.models.spec import ModelSpec
from quire.ops.records import OPS
from quire.ops.spec import AttentionBatch
from quire.ops.table import KernelTable

BLOCK_SIZE = 4


def make_context(
    dtype: torch.dtype = torch.float32,
    max_model_len: int | None = None,
    kv_dtype: torch.dtype | None = None,
    kernels: Sequence[Kernel] = (),
) -> ModelContext:
    table = KernelTable(OPS)
    register_reference_kernels(table)
    for kernel in kernels:
        table.register(kernel)
    return ModelContext(table, dtype, torch.device("cpu"), max_model_len=max_model_len, kv_dtype=kv_dtype)


class Runner:
    """A loaded model, its caches, and rows of tokens; every row has its own scattered blocks. `kv_dtype` is what the
    model is told of the caches, `cache_dtype` what they are; `kernels` stand above the reference's."""

    def __init__(
        self,
        path: Path,
        num_rows: int = 1,
        dtype: torch.dtype = torch.float32,
        max_model_len: int | None = None,
        kv_dtype: torch.dtype | None = None,
        cache_dtype: torch.dtype | None = None,
        kernels: Sequence[Kernel] = (),
    ) -> None:
        self.spec: ModelSpec = registry.read_spec(path)
        context = make_context(dtype, max_model_len, kv_dtype, kernels)
        self.model: DecoderModel = registry.build(path, self.spec, context)
        loader.load_weights(self.model, path)
        self.max_blocks = 48
        num_blocks = num_rows * self.max_blocks
        shape = (num_blocks, self.spec.num_kv_heads, BLOCK_SIZE, self.spec.head_dim)
        cache_dtype = cache_dtype or kv_dtype or dtype
        filled = (torch.full(shape, float("nan"), dtype=cache_dtype) for _ in range(2 * self.spec.kv_layers))
        self.caches = list(zip(*[iter(filled)] * 2, strict=True))
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(0))
        self.block_table = order.view(num_rows, self.max_blocks).int()
        self.lengths = [0] * num_rows

    @torch.inference_mode()
    def hidden(self, chunks: Sequence[Sequence[int]], wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Append `chunks[r]` to row r, for all rows in one ragged batch; return the hidden states of all tokens, or of
        those that are wanted."""
        counts = torch.tensor([len(chunk) for chunk in chunks])
        positions = torch.cat([torch.arange(n, n + len(c)) for n, c in zip(self.lengths, chunks, strict=True)])
        rows = torch.arange(len(chunks)).repeat_interleave(counts)
        self.lengths = [n + len(chunk) for n, chunk in zip(self.lengths, chunks, strict=True)]
        blocks = self.block_table[rows, positions // BLOCK_SIZE].long()
        batch = AttentionBatch(
            torch.cat([torch.zeros(1), counts.cumsum(0)]).int(),
            torch.tensor(self.lengths, dtype=torch.int32),
            self.block_table,
            blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
            int(counts.max()),
            max(self.lengths),
        )
        input_ids = torch.tensor([token for chunk in chunks for token in chunk])
        return self.model.forward(input_ids, positions, self.caches, batch, wanted)

    def logits(self, chunks: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return each row's logits `[len(chunk), V]`."""
        with torch.inference_mode():
            return list(self.model.logits(self.hidden(chunks)).split([len(chunk) for chunk in chunks]))

    def generate(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Return greedy tokens after a prompt in row 0 (a runner of one row)."""
        tokens = [int(self.logits([prompt])[0][-1].argmax())]
        while len(tokens) < num_tokens:
            tokens.append(int(self.logits([tokens[-1:]])[0][-1].argmax()))
        return tokens
