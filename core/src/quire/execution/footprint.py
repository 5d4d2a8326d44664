"""What a model takes beside its KV cache: planned before there is any memory, measured on the device.

Both run the same full step: as many tokens as a step may compute, spread over as many rows as may run, each of which
draws a token. Planning runs it through the very layers that the engine runs, with outlines for kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from quire.backend.contract import KernelRequest
from quire.config import EngineConfig
from quire.execution.live_bytes import LiveBytes
from quire.execution.memory import Footprint, Formats, estimate_footprint
from quire.models import registry, resolve
from quire.models.checkpoint_config import read_config
from quire.models.context import Allocate, Cache, DecoderModel, ModelContext
from quire.models.decoder import Decoder
from quire.models.decoder_config import DecoderConfig
from quire.models.spec import ModelSpec
from quire.ops.spec import AttentionBatch
from quire.ops.table import KernelTable


class FullStep(NamedTuple):
    """The size of the fullest step, and the kernels at its end."""

    num_tokens: int
    num_rows: int
    block_size: int
    select_rows: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    draw_tokens: Callable[..., torch.Tensor]

    @property
    def row_lens(self) -> list[int]:
        """Return the tokens of each row, longest first."""
        each, more = divmod(self.num_tokens, self.num_rows)
        return [each + (row < more) for row in range(self.num_rows)]


def full_step(config: EngineConfig, spec: ModelSpec, table: KernelTable, formats: Formats) -> FullStep:
    """Return the fullest step that the settings allow."""
    num_tokens = min(config.max_num_batched_tokens, config.max_num_seqs * formats.max_model_len)
    return FullStep(
        num_tokens,
        min(config.max_num_seqs, num_tokens),
        formats.block_size,
        table.bind(KernelRequest("select_rows", formats.dtype, {"hidden_size": spec.hidden_size})),
        table.bind(KernelRequest("draw_tokens", "float32", {"vocab_size": spec.vocab_size})),
    )


def run_full_step(model: DecoderModel, caches: Sequence[Cache], step: FullStep, device: torch.device) -> None:
    """Compute a full step of tokens that mean nothing. Nothing is written to the caches."""
    with torch.inference_mode():
        lens = torch.tensor(step.row_lens, dtype=torch.int32, device=device)
        ends = lens.cumsum(0, dtype=torch.int32)
        longest = step.row_lens[0]
        batch = AttentionBatch(
            query_start=torch.cat([ends.new_zeros(1), ends]),
            seq_lens=lens,
            block_table=lens.new_zeros(step.num_rows, -(-longest // step.block_size)),
            slots=torch.full((step.num_tokens,), -1, device=device),
            max_query_len=longest,
            max_seq_len=longest,
        )
        token_ids, positions = torch.zeros(2, step.num_tokens, dtype=torch.int64, device=device)
        hidden = model.forward(token_ids, positions, caches, batch)
        selected, _ = step.select_rows(hidden, ends - 1)
        _draw(model.logits(selected), step)


def _draw(logits: torch.Tensor, step: FullStep) -> None:
    """Draw with every filter at work. All rows stand for one seat, whose token does not matter."""
    one, rows = logits.new_ones(1), torch.zeros(len(logits), dtype=torch.int32, device=logits.device)
    step.draw_tokens(logits, one, 5 * one.int(), one / 2, 0 * one, one.long(), rows, rows, rows.new_zeros(1, 1))


# -- planning ----------------------------------------------------------------------------------------------------------


def plan_footprint(config: EngineConfig, spec: ModelSpec, table: KernelTable, formats: Formats) -> Footprint:
    """Return what the model will take. `table` holds outlines of the kernels.

    Models that run through transformers are estimated: their layers are not the core's. Raise ModelError, KernelError.
    """
    if spec.architecture not in registry.RECIPES:
        return estimate_footprint(config, spec, formats)
    decoder = registry.describe(read_config(Path(resolve.resolve_path(config.model, config.revision))))
    activations = _activations_bytes(config, spec, decoder, table, formats)
    return Footprint(_weights_bytes(decoder, table, formats), activations, _scratch_bytes(table))


def _weights_bytes(decoder: DecoderConfig, table: KernelTable, formats: Formats) -> int:
    """Return the bytes of everything that the layers allocate: weights, and tables of positions."""
    tables = 0

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nonlocal tables
        tables += math.prod(shape) * int(dtype.itemsize)
        return torch.empty(shape, dtype=dtype, device="meta")

    model = Decoder(_context(table, formats, allocate), decoder)
    return tables + sum(math.prod(item.shape) * int(item.dtype.itemsize) for item in model.parameters())


def _activations_bytes(
    config: EngineConfig, spec: ModelSpec, decoder: DecoderConfig, table: KernelTable, formats: Formats
) -> int:
    """Run a full step through one layer of each kind, twice: what passes through one is gone in the next."""
    kinds = tuple(dict.fromkeys(decoder.layers)) * 2
    # One position is used, so its table need not be longer.
    context = _context(table, formats._replace(max_model_len=1), _untouched)
    model = Decoder(context, replace(decoder, layers=kinds))
    for parameter in model.parameters():
        parameter.install(_untouched(parameter.shape, parameter.dtype))
    shape = (2, 1, spec.num_kv_heads, formats.block_size, spec.head_dim)
    key_cache, value_cache = _untouched(shape, getattr(torch, formats.kv_dtype))
    step = full_step(config, spec, table, formats)
    live = LiveBytes()
    with live:
        run_full_step(model, [(key_cache, value_cache)] * len(kinds), step, torch.device("cpu"))
    return live.peak


def _scratch_bytes(table: KernelTable) -> int:
    """Return what the kernels that were bound keep: those of one provider share it, for they run one after another."""
    bound = {(resolution.request.op, resolution.provider) for resolution in table.resolutions}
    largest: dict[str, int] = {}
    for kernel in table.kernels():
        if (kernel.op, kernel.provider) in bound:
            largest[kernel.provider] = max(largest.get(kernel.provider, 0), kernel.workspace_bytes)
    return sum(largest.values())


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _context(table: KernelTable, formats: Formats, allocate: Allocate) -> ModelContext:
    return ModelContext(
        table,
        getattr(torch, formats.dtype),
        torch.device("cpu"),
        allocate,
        max_model_len=formats.max_model_len,
        kv_dtype=getattr(torch, formats.kv_dtype),
        block_size=formats.block_size,
    )


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure_activations(model: DecoderModel, caches: Sequence[Cache], step: FullStep, device: torch.device) -> int:
    """Run a full step and return the most bytes that its tensors took, as an accelerator counts them, or as torch's
    records say. What kernels keep for themselves without torch, and what the heap loses between, is not in it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != device.type:
        live = LiveBytes()
        with live:
            run_full_step(model, caches, step, device)
        return live.peak
    torch.accelerator.reset_peak_memory_stats(device)
    before: int = torch.accelerator.memory_allocated(device)
    run_full_step(model, caches, step, device)
    torch.accelerator.synchronize(device)
    return int(torch.accelerator.max_memory_allocated(device)) - before
