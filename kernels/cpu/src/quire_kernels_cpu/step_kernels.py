"""The ops with which a step begins and ends: what it reads of the rows, and how it chooses tokens. See `kernels.py`."""

from __future__ import annotations

from torch import Tensor, bfloat16, empty, float16, float32, get_num_threads, int64
from torch import bool as bool_

from quire_kernels_cpu.library import Library

CODES = {float32: 0, bfloat16: 1, float16: 2}  # DType in csrc/types.h


class StepKernels:
    """Those ops over `library`. Bound methods are the kernels."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._sample = library.function("sample")
        self._draw_tokens = library.function("draw_tokens")
        self._gather_step = library.function("gather_step")
        self._select_rows = library.function("select_rows")
        self._apply_penalties = library.function("apply_penalties")

    def sample(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        seeds: Tensor,
        positions: Tensor,
    ) -> Tensor:
        tokens = seeds.new_empty(logits.shape[0])
        self._sample(
            logits.data_ptr(),
            temperature.data_ptr(),
            top_k.data_ptr(),
            top_p.data_ptr(),
            min_p.data_ptr(),
            seeds.data_ptr(),
            positions.data_ptr(),
            tokens.data_ptr(),
            logits.stride(0),
            logits.shape[0],
            logits.shape[1],
            get_num_threads(),
        )
        return tokens

    def draw_tokens(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        seeds: Tensor,
        rows: Tensor,
        positions: Tensor,
        tokens: Tensor,
    ) -> Tensor:
        chosen = seeds.new_empty(logits.shape[0])
        self._draw_tokens(
            logits.data_ptr(),
            temperature.data_ptr(),
            top_k.data_ptr(),
            top_p.data_ptr(),
            min_p.data_ptr(),
            seeds.data_ptr(),
            rows.data_ptr(),
            positions.data_ptr(),
            tokens.data_ptr(),
            chosen.data_ptr(),
            logits.stride(0),
            tokens.stride(0),
            logits.shape[0],
            logits.shape[1],
            get_num_threads(),
        )
        return chosen

    def gather_step(
        self,
        tokens: Tensor,
        blocks: Tensor,
        token_rows: Tensor,
        positions: Tensor,
        rows: Tensor,
        block_size: int,
        num_blocks: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num_tokens, num_rows = token_rows.shape[0], rows.shape[0]
        token_ids, wide_positions, slots = empty((3, num_tokens), dtype=int64).unbind()
        block_table = blocks.new_empty(num_rows, num_blocks)
        self._gather_step(
            tokens.data_ptr(),
            blocks.data_ptr(),
            token_rows.data_ptr(),
            positions.data_ptr(),
            rows.data_ptr(),
            token_ids.data_ptr(),
            wide_positions.data_ptr(),
            slots.data_ptr(),
            block_table.data_ptr(),
            tokens.stride(0),
            blocks.stride(0),
            num_tokens,
            num_rows,
            block_size,
            num_blocks,
        )
        return token_ids, wide_positions, slots, block_table

    def select_rows(self, hidden: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        hidden = hidden.contiguous()
        count, size = index.shape[0], hidden.shape[1]
        selected, finite = hidden.new_empty(count, size), empty(count, dtype=bool_)
        self._select_rows(
            hidden.data_ptr(),
            index.data_ptr(),
            selected.data_ptr(),
            finite.data_ptr(),
            CODES[hidden.dtype],
            count,
            size,
        )
        return selected, finite

    def apply_penalties(
        self,
        logits: Tensor,
        prompt_mask: Tensor,
        output_counts: Tensor,
        presence: Tensor,
        frequency: Tensor,
        repetition: Tensor,
    ) -> Tensor:
        """Change `logits` in place."""
        logits = logits.contiguous()
        self._apply_penalties(
            logits.data_ptr(),
            prompt_mask.contiguous().data_ptr(),
            output_counts.contiguous().data_ptr(),
            presence.data_ptr(),
            frequency.data_ptr(),
            repetition.data_ptr(),
            logits.shape[0],
            logits.shape[1],
            get_num_threads(),
        )
        return logits
