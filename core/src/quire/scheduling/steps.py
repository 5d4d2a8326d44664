"""A step while it is being planned."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire.plan import NO_IDS, Bools, Int32s, NewBlocks, NewRow, StepPlan
from quire.scheduling.ledger import Growth
from quire.scheduling.request import Request
from quire.scheduling.roster import NO_ORDER, Order, StepRecord

NO_COPIES: Int32s = np.empty((0, 2), np.int32)


@dataclass(slots=True)
class StepDraft:
    """One step's work so far. Decodes are arrays from the start; the rest are lists, few and short."""

    budget: int
    max_prefills: int
    decodes: Order = NO_ORDER
    decode_starts: Int32s = field(default_factory=lambda: NO_IDS)
    decode_blocks: NewBlocks = NewBlocks(NO_IDS, NO_IDS, NO_IDS)
    finals: list[Request] = field(default_factory=list)
    chunks: list[Request] = field(default_factory=list)
    chunk_starts: list[int] = field(default_factory=list)
    chunk_counts: list[int] = field(default_factory=list)
    chunk_samples: list[bool] = field(default_factory=list)
    new_rows: list[NewRow] = field(default_factory=list)
    growths: list[tuple[int, Growth]] = field(default_factory=list)  # (row, blocks)
    copies: list[tuple[int, int]] = field(default_factory=list)
    hashes: set[bytes] = field(default_factory=set)  # of the full blocks that the chunks compute
    has_preempted: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.decodes.requests and not self.chunks

    @property
    def has_room(self) -> bool:
        return self.budget > 0 and len(self.chunks) < self.max_prefills

    def add_chunk(self, request: Request, start: int, count: int, samples: bool) -> None:
        self.chunks.append(request)
        self.chunk_starts.append(start)
        self.chunk_counts.append(count)
        self.chunk_samples.append(samples)
        self.budget -= count

    def build(self, step: int, freed_rows: tuple[int, ...]) -> StepPlan:
        """Return the plan. Without chunks, the arrays are those that the order of the running requests keeps."""
        rows, starts, counts, samples = self._entries()
        return StepPlan(
            step=step,
            rows=rows,
            starts=starts,
            counts=counts,
            samples=samples,
            new_rows=tuple(self.new_rows),
            freed_rows=freed_rows,
            new_blocks=self._new_blocks(),
            block_copies=np.array(self.copies, np.int32) if self.copies else NO_COPIES,
        )

    def record(self) -> StepRecord:
        return StepRecord(self.decodes, self.finals, self.chunks)

    def _entries(self) -> tuple[Int32s, Int32s, Int32s, Bools]:
        decodes = self.decodes
        if not self.chunks:
            return decodes.plan_rows, self.decode_starts, decodes.ones, decodes.trues
        rows = np.array([request.row for request in self.chunks], np.int32)
        return (
            np.concatenate((decodes.plan_rows, rows)),
            np.concatenate((self.decode_starts, np.array(self.chunk_starts, np.int32))),
            np.concatenate((decodes.ones, np.array(self.chunk_counts, np.int32))),
            np.concatenate((decodes.trues, np.array(self.chunk_samples, np.bool_))),
        )

    def _new_blocks(self) -> NewBlocks:
        if not self.growths:
            return self.decode_blocks
        entries = [
            (row, index, block)
            for row, growth in self.growths
            for index, block in enumerate(growth.block_ids, growth.first_index)
        ]
        rows, indices, blocks = np.array(entries, np.int32).reshape(-1, 3).T
        decodes = self.decode_blocks
        return NewBlocks(
            np.concatenate((decodes.rows, rows)),
            np.concatenate((decodes.indices, indices)),
            np.concatenate((decodes.block_ids, blocks)),
        )
