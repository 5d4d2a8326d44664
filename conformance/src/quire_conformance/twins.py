"""Two executors given the same plans: the target's and the reference's. What they sample and hold must agree.

A small host model plays the scheduler: it seats rows, gives blocks, computes chunks of any size, frees and reuses. The
caller asserts; this class keeps the books.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from quire.backend.contract import Executor
from quire.plan import NewBlocks, NewRow, StepPlan, StepResult
from quire_conformance.target import Target
from quire_conformance.workloads import greedy, prompt

NUM_ROWS, NUM_BLOCKS, MAX_BLOCKS = 4, 24, 6
RELATIVE_ERROR = 2e-3
KV = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Seat:
    """What the host knows of a row."""

    tokens: list[int]
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)


class Twins:
    """Both executors, and the books of rows and blocks."""

    def __init__(self, target: Target, block_size: int) -> None:
        self.target = target
        self.block_size = block_size
        self.num_blocks = NUM_BLOCKS + target.kv.reserved_blocks
        self.seats: dict[int, Seat] = {}
        self._executors = [self._start(target), self._start(target.reference)]
        self._freed: list[int] = []
        self._new_rows: dict[int, int] = {}  # row → tokens it had when it was seated
        self._new_blocks: list[tuple[int, int, int]] = []
        self._free_blocks = list(range(target.kv.reserved_blocks, self.num_blocks))
        self._step = 0
        self._num_seated = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for executor in self._executors:
            executor.stop()

    # -- what the host does --------------------------------------------------------------------------------------------

    @property
    def free_rows(self) -> list[int]:
        return [row for row in range(NUM_ROWS) if row not in self.seats]

    def seat(self, num_tokens: int) -> int:
        """Give a new request a row; its blocks come as it computes."""
        row = self.free_rows[0]
        self._num_seated += 1
        self.seats[row] = Seat(list(prompt(num_tokens, self._num_seated)))
        self._new_rows[row] = num_tokens
        return row

    def free(self, row: int) -> None:
        """End a request: its row and blocks are given to others."""
        seat = self.seats.pop(row)
        if self._new_rows.pop(row, None) is None:
            self._freed.append(row)
        self._free_blocks += reversed(seat.blocks)
        self._new_blocks = [item for item in self._new_blocks if item[0] != row]

    def table(self, row: int) -> list[int]:
        return self.seats[row].blocks

    def unused(self) -> int:
        """Return a block that nobody has."""
        return self._free_blocks[-1]

    def can_compute(self, row: int, count: int) -> bool:
        """Say whether the row has so many tokens left, and blocks can be had for them."""
        seat = self.seats[row]
        end = seat.num_computed + count
        needed = self._blocks_for(end) - len(seat.blocks)
        return end <= min(len(seat.tokens), MAX_BLOCKS * self.block_size - 1) and needed <= len(self._free_blocks) - 2

    def allowed_steps(self, counts: Mapping[int, int]) -> list[dict[int, int]]:
        """Divide what to compute into steps that the target's `ScheduleConstraints` allow."""
        schedule = self.target.caps.schedule
        single = {row: count for row, count in counts.items() if count == 1}
        longer = [(row, count) for row, count in counts.items() if count > 1]
        at_once = schedule.max_prefill_requests or max(len(longer), 1)
        chunks = [dict(longer[start : start + at_once]) for start in range(0, len(longer), at_once)]
        if schedule.mix_prefill_decode:
            return [single | (chunks[0] if chunks else {}), *chunks[1:]]
        return [step for step in (single, *chunks) if step]

    def compute(self, counts: Mapping[int, int], copies: Sequence[tuple[int, int]] = ()) -> list[StepResult]:
        """Compute the next `counts[row]` tokens of rows in one step on both, and note what the target sampled."""
        for row, count in counts.items():
            self._grow(row, self.seats[row].num_computed + count)
        plan = self._plan(counts, copies)
        results = [executor.collect(executor.submit(plan)) for executor in self._executors]
        self._note(plan, results[1])
        return results

    def read(self, block_ids: Iterable[int], reference: bool = False) -> list[KV]:
        """Return keys and values of every layer, `[block, head, slot, dim]`."""
        blocks = list(block_ids)
        return [self._executors[reference].read_kv(layer, blocks) for layer in range(self.target.spec().kv_layers)]

    def kv_problem(self) -> str:
        """Return how what rows have computed differs from the reference's; empty if it does not."""
        for row, seat in self.seats.items():
            if not seat.blocks or row in self._new_rows:
                continue
            for layer, pair in enumerate(zip(self.read(seat.blocks), self.read(seat.blocks, True), strict=True)):
                for name, found, right in zip(("key", "value"), *pair, strict=True):
                    where = _first_difference(found, right, seat.num_computed)
                    if where is not None:
                        return f"the {name} of row {row}, layer {layer}, position {where} differs from the reference's"
        return ""

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start(self, target: Target) -> Executor:
        executor, _ = target.build(
            block_size=self.block_size,
            num_blocks=self.num_blocks,
            max_num_seqs=NUM_ROWS,
            max_model_len=min(MAX_BLOCKS * self.block_size, target.spec().max_model_len),
            max_num_batched_tokens=NUM_ROWS * MAX_BLOCKS * self.block_size,
        )
        executor.start()
        return executor

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _grow(self, row: int, num_tokens: int) -> None:
        seat = self.seats[row]
        while len(seat.blocks) < self._blocks_for(num_tokens):
            block = self._free_blocks.pop(0)
            if row not in self._new_rows:
                self._new_blocks.append((row, len(seat.blocks), block))
            seat.blocks.append(block)

    def _plan(self, counts: Mapping[int, int], copies: Sequence[tuple[int, int]]) -> StepPlan:
        rows = sorted(counts)
        seats = [self.seats[row] for row in rows]
        starts = [seat.num_computed for seat in seats]
        ends = [start + counts[row] for start, row in zip(starts, rows, strict=True)]
        new = [row for row in rows if row in self._new_rows]
        blocks = np.array(self._new_blocks, np.int32).reshape(-1, 3).T
        plan = StepPlan(
            self._step,
            np.array(rows, np.int32),
            np.array(starts, np.int32),
            np.array([counts[row] for row in rows], np.int32),
            np.array([end == len(seat.tokens) for end, seat in zip(ends, seats, strict=True)], np.bool_),
            new_rows=tuple(self._new_row(row) for row in new),
            freed_rows=tuple(self._freed),
            new_blocks=NewBlocks(*(np.ascontiguousarray(column) for column in blocks)),
            block_copies=np.array(copies, np.int32).reshape(-1, 2),
        )
        for row in new:
            del self._new_rows[row]
        self._freed, self._new_blocks, self._step = [], [], self._step + 1
        return plan

    def _new_row(self, row: int) -> NewRow:
        seat = self.seats[row]
        tokens = np.array(seat.tokens, np.int32)
        return NewRow(row, tokens, len(tokens), np.array(seat.blocks, np.int32), greedy(), seed=row)

    def _note(self, plan: StepPlan, result: StepResult) -> None:
        for row, start, count, tokens in zip(
            plan.rows.tolist(), plan.starts.tolist(), plan.counts.tolist(), result.token_ids, strict=True
        ):
            self.seats[row].num_computed = start + count
            self.seats[row].tokens += tokens


def _first_difference(found: torch.Tensor, right: torch.Tensor, num_tokens: int) -> int | None:
    """Return the first position of `[block, head, slot, dim]` blocks that is not close, None if all are."""
    flat: list[Any] = [item.transpose(1, 2).flatten(0, 1)[:num_tokens].float() for item in (found, right)]
    error = (flat[0] - flat[1]).abs().amax((1, 2)) if num_tokens else torch.zeros(0)
    scale = float(flat[1].abs().max()) if num_tokens else 1.0
    wrong = (~(error <= RELATIVE_ERROR * scale)).nonzero()
    return int(wrong[0]) if len(wrong) else None
