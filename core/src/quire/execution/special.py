"""Steps with rows that ask for more than a token: edited logits, logprobs, prompt logprobs, pooled hidden states.

The model still runs as the same program; only what follows its hidden states happens here, unpadded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from quire.backend.contract import Device, HostRead
from quire.execution import logprobs
from quire.execution.inputs import StepBuffers
from quire.execution.logits import LogitsEditor, SampledRow
from quire.execution.logprobs import PendingLogprobs, PendingParts, num_wanted
from quire.execution.programs import Programs
from quire.execution.rows import Rows
from quire.execution.step import Sampled, StepFunctions
from quire.models.context import DecoderModel
from quire.plan import Float32s, NewRow, StepPlan, TokenLogprobs

LOGITS_COPIES = 3
"""What logprobs take at once, in logits: these, their exponentials, what compares them. The memory plan has room for
the logits of as many rows as may run."""
MIN_POSITIONS = 16
"""Logprobs of so many positions are computed at once in any case: the head's weight is read for each part."""


class Extras(NamedTuple):
    """What besides tokens a step is asked for: by index into `plan.rows`."""

    logprobs: dict[int, PendingLogprobs]
    prompt_logprobs: dict[int, PendingParts]
    embeddings: dict[int, HostRead]

    def sampled_logprobs(self) -> dict[int, tuple[TokenLogprobs, ...]]:
        return {index: pending.wait() for index, pending in self.logprobs.items()}

    def prompt(self) -> dict[int, tuple[TokenLogprobs, ...]]:
        return {index: pending.wait() for index, pending in self.prompt_logprobs.items()}

    def pooled(self) -> dict[int, Float32s]:
        return {index: read.wait().numpy() for index, read in self.embeddings.items()}


NO_EXTRAS = Extras({}, {}, {})


class SpecialStep:
    """Runs such steps."""

    def __init__(
        self,
        device: Device,
        model: DecoderModel,
        rows: Rows,
        programs: Programs,
        step: StepFunctions,
        apply_penalties: Callable[..., torch.Tensor],
    ) -> None:
        self._device = device
        self._model = model
        self._rows = rows
        self._programs = programs
        self._step = step
        self._editor = LogitsEditor(rows, apply_penalties)
        self._pooled_sums: dict[int, torch.Tensor] = {}  # row → sum of hidden states so far

    def run(self, plan: StepPlan) -> tuple[Sampled | None, Extras]:
        """Compute the plan; return the appended tokens, if any row samples, and the extras under way."""
        hidden, _ = self._programs.run(self._step.hidden, plan)
        seats = self._rows.seats_of(plan)
        ends = np.cumsum(plan.counts)
        prompt = self._prompt_logprobs(plan, seats, hidden, ends)
        embeddings = self._embeddings(plan, seats, hidden, ends)
        indices = plan.samples.nonzero()[0].tolist()
        if not indices:
            return None, Extras({}, prompt, embeddings)
        rows = [SampledRow(seats[i], int(plan.starts[i] + plan.counts[i])) for i in indices]
        sampled, pending = self._choose(self._programs.load_exact(plan), hidden, rows, indices)
        return sampled, Extras(pending, prompt, embeddings)

    def _choose(
        self, inputs: StepBuffers, hidden: torch.Tensor, rows: list[SampledRow], indices: list[int]
    ) -> tuple[Sampled, dict[int, PendingLogprobs]]:
        raw, finite = self._step.logits_of(inputs, hidden)
        token_ids = self._step.draw(inputs, self._editor.edit(raw.clone(), rows))
        return Sampled(token_ids, finite), self._logprobs(raw, token_ids, rows, indices)

    def _logprobs(
        self, raw: torch.Tensor, token_ids: torch.Tensor, rows: list[SampledRow], indices: list[int]
    ) -> dict[int, PendingLogprobs]:
        pending = {}
        for at, row in enumerate(rows):
            asked = row.seat.sampling.logprobs
            if asked is not None:
                count = num_wanted(asked, raw.shape[1])
                pending[indices[at]] = logprobs.start(self._device, raw[at : at + 1], token_ids[at : at + 1], [count])
        return pending

    def _prompt_logprobs(
        self, plan: StepPlan, seats: Sequence[NewRow], hidden: torch.Tensor, ends: np.ndarray
    ) -> dict[int, PendingParts]:
        pending = {}
        for index, seat in enumerate(seats):
            start, count = int(plan.starts[index]), int(plan.counts[index])
            if _wants_prompt_logprobs(seat, start):
                first = int(ends[index]) - count
                pending[index] = self._row_prompt_logprobs(seat, start, hidden[first : first + count])
        return pending

    def _row_prompt_logprobs(self, seat: NewRow, start: int, hidden: torch.Tensor) -> PendingParts:
        """Take some positions at a time: so many logits, and what is made of them, as the memory plan has room for."""
        scored = min(len(hidden), seat.prompt_len - 1 - start)  # the last prompt token predicts an output
        targets = self._rows.tokens[seat.row, start + 1 : start + 1 + scored].long()
        at_once = max(MIN_POSITIONS, self._rows.scratch // LOGITS_COPIES)
        parts = zip(hidden[:scored].split(at_once), targets.split(at_once), strict=True)
        return PendingParts([self._part_logprobs(seat, *part) for part in parts])

    def _part_logprobs(self, seat: NewRow, hidden: torch.Tensor, targets: torch.Tensor) -> PendingLogprobs:
        logits = self._model.logits(hidden)
        count = num_wanted(seat.sampling.prompt_logprobs or 0, logits.shape[1])
        return logprobs.start(self._device, logits, targets, [count] * len(targets))

    def _embeddings(
        self, plan: StepPlan, seats: Sequence[NewRow], hidden: torch.Tensor, ends: np.ndarray
    ) -> dict[int, HostRead]:
        pending = {}
        for index, seat in enumerate(seats):
            if not seat.pooling:
                continue
            start, count = int(plan.starts[index]), int(plan.counts[index])
            pooled = self._pool(seat, start, hidden[int(ends[index]) - count : int(ends[index])])
            if start + count >= seat.prompt_len:
                pending[index] = self._device.to_host(pooled)
        return pending

    def _pool(self, seat: NewRow, start: int, hidden: torch.Tensor) -> torch.Tensor:
        if seat.pooling == "last":
            return hidden[-1].float()
        so_far = self._pooled_sums.get(seat.row) if start else None
        total = hidden.float().sum(0) + (0 if so_far is None else so_far)
        self._pooled_sums[seat.row] = total
        return total / (start + len(hidden))


def _wants_prompt_logprobs(seat: NewRow, start: int) -> bool:
    return seat.sampling.prompt_logprobs is not None and start < seat.prompt_len - 1
