"""What runs on the device in a step: from rows and positions to appended tokens. Capturable: no host read inside.

A step function takes `StepBuffers` and returns tensors. `hidden` is the model; `greedy` and `sample` add the choice of
the next token and append it to its row, so that the next step can start before the host has seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from quire.execution.inputs import StepBuffers
from quire.execution.kv_cache import Cache
from quire.execution.rows import Rows
from quire.models.context import DecoderModel
from quire.ops.spec import AttentionBatch

FEW_SAMPLED = 4
"""Where so many times more tokens are computed than are sampled, the last layer goes on with the sampled ones alone."""


class Sampled(NamedTuple):
    """Chosen tokens `[S]` int64, and whether the hidden state behind each was finite `[S]` bool."""

    token_ids: torch.Tensor
    finite: torch.Tensor


class StepKernels(NamedTuple):
    """The kernels with which a step begins and ends; see `quire.ops.spec`."""

    gather_step: Callable[..., Any]
    select_rows: Callable[..., Any]
    draw_tokens: Callable[..., Any]


class StepFunctions:
    """The step of one model over one set of rows and caches.

    `draw_raw` is draw_tokens for logits as the model's head gives them; without it they are widened first, and steps in
    which no row draws at random have a function of their own, for such rows need no sampler.
    """

    def __init__(
        self,
        model: DecoderModel,
        caches: Sequence[Cache],
        rows: Rows,
        block_size: int,
        kernels: StepKernels,
        draw_raw: Callable[..., Any] | None = None,
    ) -> None:
        self._model = model
        self._caches = caches
        self._rows = rows
        self._block_size = block_size
        self._kernels = kernels
        self._draw_raw = draw_raw

    def choosing(self, drawn: bool) -> Callable[[StepBuffers], Sampled]:
        """Return the function of a step that samples; `drawn`: some row draws at random."""
        return self.sample if drawn or self._draw_raw is not None else self.greedy

    def hidden(self, inputs: StepBuffers, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Return the hidden state of every token `[T, H]`, or of those `wanted` `[S]`; keys and values are written on
        the way."""
        # Scratch rows hold block -1, so padding gets a negative slot, which kv_write passes over.
        token_ids, positions, slots, block_table = self._kernels.gather_step(
            self._rows.tokens,
            self._rows.blocks,
            inputs.token_rows,
            inputs.positions,
            inputs.rows,
            self._block_size,
            -(-inputs.max_seq_len // self._block_size),
        )
        batch = AttentionBatch(
            inputs.query_start, inputs.seq_lens, block_table, slots, inputs.max_query_len, inputs.max_seq_len
        )
        return self._model.forward(token_ids, positions, self._caches, batch, wanted)

    def sampled(self, inputs: StepBuffers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states `[S, H]` behind sampled tokens, and which of them are sound `[S]`."""
        index = inputs.sample_index
        if len(index) * FEW_SAMPLED > len(inputs.positions):
            return self._select(self.hidden(inputs), index)
        hidden = self.hidden(inputs, index)
        return self._select(hidden, torch.arange(len(index), dtype=index.dtype, device=index.device))

    def fill(self, inputs: StepBuffers) -> None:
        """Write keys and values, of a step in which nothing is sampled."""
        self.hidden(inputs, inputs.positions[:0])

    def logits(self, inputs: StepBuffers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits `[S, V]` float32 to sample from, and which are sound."""
        selected, finite = self.sampled(inputs)
        return self._model.logits(selected), finite

    def logits_of(self, inputs: StepBuffers, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same, of hidden states `[T, H]` that have been computed."""
        selected, finite = self._select(hidden, inputs.sample_index)
        return self._model.logits(selected), finite

    def greedy(self, inputs: StepBuffers) -> Sampled:
        """Compute, and append the likeliest token to each sampled row."""
        logits, finite = self.logits(inputs)
        token_ids = logits.argmax(-1)
        where = inputs.sample_rows.long(), inputs.sample_positions.long()
        self._rows.tokens[where] = token_ids.to(self._rows.tokens.dtype)
        return Sampled(token_ids, finite)

    def sample(self, inputs: StepBuffers) -> Sampled:
        """Compute, and append a drawn token to each sampled row."""
        if self._draw_raw is None:
            logits, finite = self.logits(inputs)
            return Sampled(self.draw(inputs, logits), finite)
        selected, finite = self.sampled(inputs)
        return Sampled(self._draw_with(self._draw_raw, inputs, self._model.raw_logits(selected)), finite)

    def draw(self, inputs: StepBuffers, logits: torch.Tensor) -> torch.Tensor:
        """Return the tokens `[S]` that each sampled row's parameters and seed choose, appended to the rows."""
        return self._draw_with(self._kernels.draw_tokens, inputs, logits)

    def _select(self, hidden: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        selected: tuple[torch.Tensor, torch.Tensor] = self._kernels.select_rows(hidden, index)
        return selected

    def _draw_with(self, kernel: Callable[..., Any], inputs: StepBuffers, logits: torch.Tensor) -> torch.Tensor:
        rows = self._rows
        token_ids: torch.Tensor = kernel(
            logits, *rows.sampling, inputs.sample_rows, inputs.sample_positions, rows.tokens
        )
        return token_ids
