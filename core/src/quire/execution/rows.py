"""The persistent device batch: one row for each request that runs, changed only by the plan's deltas.

Row `max_rows` is scratch: padding reads it, and its block table is -1, so that nothing of it is ever written to KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from quire.backend.contract import Allocator, Device
from quire.plan import NewBlocks, NewRow, StepPlan
from quire.sampling import SamplingParams


class SamplingTables(NamedTuple):
    """Sampling state by row, each `[max_rows + 1]`."""

    temperature: torch.Tensor  # float32
    top_k: torch.Tensor  # int32
    top_p: torch.Tensor  # float32
    min_p: torch.Tensor  # float32
    seed: torch.Tensor  # int64


class Rows:
    """Tokens `[max_rows + 1, max_model_len + 1]`, block tables `[max_rows + 1, max_blocks]` and sampling state.

    `seated[row]` is the `NewRow` that each taken row came with. `drawn` and `special` [max_rows] bool tell, without
    a look at each seat in every step, which rows draw at random and which ask for more than a token (see `special.py`).
    """

    def __init__(
        self, device: Device, allocator: Allocator, max_rows: int, max_model_len: int, max_blocks: int
    ) -> None:
        def table(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return allocator.allocate("workspace", shape, dtype)

        seats = max_rows + 1
        self.scratch = max_rows
        self.tokens = table((seats, max_model_len + 1), torch.int32)
        self.blocks = table((seats, max_blocks), torch.int32)
        self.blocks[self.scratch].fill_(-1)
        self.sampling = SamplingTables(
            table((seats,), torch.float32).fill_(0),
            table((seats,), torch.int32).fill_(0),
            table((seats,), torch.float32).fill_(1),
            table((seats,), torch.float32).fill_(0),
            table((seats,), torch.int64).fill_(0),
        )
        self.tokens[self.scratch].fill_(0)
        self.seated: dict[int, NewRow] = {}
        self.drawn = np.zeros(seats, np.bool_)
        self.special = np.zeros(seats, np.bool_)
        self._device = device

    def apply(self, plan: StepPlan) -> None:
        """Apply the plan's changes to rows and block tables, in the contract's order."""
        for row in plan.freed_rows:
            self.seated.pop(row, None)
        if plan.new_rows:
            self._seat(plan.new_rows)
        if len(plan.new_blocks.rows):
            self._append_blocks(plan.new_blocks)
        for index, drafts in plan.drafts.items():
            end = int(plan.starts[index] + plan.counts[index])
            self.tokens[int(plan.rows[index]), end - len(drafts) : end] = self.upload(np.asarray(drafts, np.int32))

    def upload(self, values: np.ndarray) -> torch.Tensor:
        """Copy a host array to a new device tensor, in order with the device's work."""
        source = torch.from_numpy(np.ascontiguousarray(values))
        host = self._device.host_buffer(tuple(source.shape), source.dtype)
        host.copy_(source)
        target = torch.empty(source.shape, dtype=source.dtype, device=self._device.torch_device)
        self._device.to_device(host, target)
        return target

    def seats_of(self, plan: StepPlan) -> list[NewRow]:
        """Return the seat of each scheduled row."""
        return [self.seated[row] for row in plan.rows.tolist()]

    def _seat(self, new_rows: Sequence[NewRow]) -> None:
        for new in new_rows:
            self.seated[new.row] = new
            self.drawn[new.row] = new.sampling.temperature > 0
            self.special[new.row] = asks_more(new)
            self.tokens[new.row, : len(new.token_ids)] = self.upload(new.token_ids)
            if len(new.block_ids):
                self.blocks[new.row, : len(new.block_ids)] = self.upload(new.block_ids)
        self._set_sampling(new_rows)

    def _set_sampling(self, new_rows: Sequence[NewRow]) -> None:
        index = self.upload(np.array([new.row for new in new_rows], np.int64))
        columns: tuple[np.ndarray, ...] = (
            np.array([new.sampling.temperature for new in new_rows], np.float32),
            np.array([max(new.sampling.top_k, 0) for new in new_rows], np.int32),
            np.array([new.sampling.top_p for new in new_rows], np.float32),
            np.array([new.sampling.min_p for new in new_rows], np.float32),
            np.array([new.seed for new in new_rows], np.uint64).astype(np.int64),
        )
        for table, column in zip(self.sampling, columns, strict=True):
            table[index] = self.upload(column)

    def _append_blocks(self, new: NewBlocks) -> None:
        packed = self.upload(np.stack([new.rows, new.indices, new.block_ids]))
        self.blocks[packed[0].long(), packed[1].long()] = packed[2]


def asks_more(seat: NewRow) -> bool:
    """Say whether a row's logits must be edited or looked at, or its hidden state pooled."""
    params = seat.sampling
    return bool(
        has_penalties(params)
        or params.logit_bias
        or params.allowed_token_ids is not None
        or seat.bad_word_ids
        or params.min_tokens
        or params.logprobs is not None
        or params.prompt_logprobs is not None
        or seat.pooling
    )


def has_penalties(params: SamplingParams) -> bool:
    """Say whether the request asks for any penalty."""
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
