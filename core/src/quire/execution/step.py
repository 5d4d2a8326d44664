"""What runs on the device in a step: from rows and positions to appended tokens. Capturable: no host read inside.

A step function takes `StepBuffers` and returns tensors. `hidden` is the model; `greedy` and `sample` add the choice of
the next token and append it to its row, so that the next step can start before the host has seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from quire.execution.inputs import StepBuffers
from quire.execution.kv_cache import Cache
from quire.execution.rows import Rows
from quire.models.context import DecoderModel
from quire.ops.spec import AttentionBatch


class Sampled(NamedTuple):
    """Chosen tokens `[S]` int64, and whether the hidden state behind each was finite `[S]` bool."""

    token_ids: torch.Tensor
    finite: torch.Tensor


class StepFunctions:
    """The step of one model over one set of rows and caches."""

    def __init__(
        self,
        model: DecoderModel,
        caches: Sequence[Cache],
        rows: Rows,
        block_size: int,
        sample: Callable[..., torch.Tensor],
    ) -> None:
        self._model = model
        self._caches = caches
        self._rows = rows
        self._block_size = block_size
        self._sample = sample

    def hidden(self, inputs: StepBuffers) -> torch.Tensor:
        """Return the hidden state of every token `[T, H]`; keys and values are written on the way."""
        token_rows, positions = inputs.token_rows.long(), inputs.positions.long()
        token_ids = self._rows.tokens[token_rows, positions].long()
        batch = AttentionBatch(
            inputs.query_start,
            inputs.seq_lens,
            self._block_table(inputs),
            self._slots(token_rows, positions),
            inputs.max_query_len,
            inputs.max_seq_len,
        )
        return self._model.forward(token_ids, positions, self._caches, batch)

    def logits(self, inputs: StepBuffers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits `[S, V]` float32 to sample from, and which are sound."""
        hidden = self.hidden(inputs)[inputs.sample_index.long()]
        return self._model.logits(hidden), hidden.isfinite().all(-1)

    def greedy(self, inputs: StepBuffers) -> Sampled:
        """Compute, and append the likeliest token to each sampled row."""
        logits, finite = self.logits(inputs)
        return self.append(inputs, logits.argmax(-1), finite)

    def sample(self, inputs: StepBuffers) -> Sampled:
        """Compute, and append a drawn token to each sampled row."""
        logits, finite = self.logits(inputs)
        return self.append(inputs, self.draw(inputs, logits), finite)

    def draw(self, inputs: StepBuffers, logits: torch.Tensor) -> torch.Tensor:
        """Return the tokens `[S]` that each sampled row's parameters and seed choose."""
        sampling = (table[inputs.sample_rows.long()] for table in self._rows.sampling)
        temperature, top_k, top_p, min_p, seeds = sampling
        return self._sample(logits, temperature, top_k, top_p, min_p, seeds, inputs.sample_positions.long())

    def append(self, inputs: StepBuffers, token_ids: torch.Tensor, finite: torch.Tensor) -> Sampled:
        """Put each token at its position of its row."""
        where = inputs.sample_rows.long(), inputs.sample_positions.long()
        self._rows.tokens[where] = token_ids.to(self._rows.tokens.dtype)
        return Sampled(token_ids, finite)

    def _block_table(self, inputs: StepBuffers) -> torch.Tensor:
        used = -(-inputs.max_seq_len // self._block_size)
        return self._rows.blocks[inputs.rows.long(), :used]

    def _slots(self, token_rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Scratch rows hold block -1, so padding gets a negative slot, which kv_write passes over.
        blocks = self._rows.blocks[token_rows, positions // self._block_size].long()
        return blocks * self._block_size + positions % self._block_size
