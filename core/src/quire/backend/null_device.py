"""What a device would hold, as numbers: rows, block tables, and which position's content each KV slot has.

The scheduler's test oracle: `apply` follows a plan as a device would, and raises BackendError where the plan
contradicts itself, an earlier plan or the device's limits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quire.backend.contract import ExecutorFacts
from quire.errors import BackendError
from quire.plan import Bools, Int32s, NewRow, StepPlan

UInt64s = npt.NDArray[np.uint64]
NOTHING = 0  # signature of a slot that was never written


def pseudo_tokens(seeds: UInt64s, positions: npt.NDArray[np.integer], vocab_size: int) -> Int32s:
    """Return the token ids `[n]` that the null device samples for these positions under these keys."""
    mixed = _mix(seeds + _mix(positions.astype(np.uint64)))
    return (mixed % np.uint64(vocab_size)).astype(np.int32)


def _mix(values: UInt64s) -> UInt64s:
    """SplitMix64's finaliser (Steele et al. 2014), element by element; arithmetic wraps."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Work(NamedTuple):
    """The plan's entries, with rows as an index."""

    rows: npt.NDArray[np.intp]
    starts: Int32s
    ends: Int32s
    samples: Bools


class NullDevice:
    """Rows and slots of a device that computes nothing.

    The *signature* of a position covers all tokens up to it, so that with `verify` a slot's content can be checked when
    it is read: a lost, shared, stale or misplaced block shows.
    """

    def __init__(self, facts: ExecutorFacts, vocab_size: int, verify: bool) -> None:
        self.facts = facts
        self.vocab_size = vocab_size
        self.verify = verify
        num_rows, per_row = facts.max_rows, -(-facts.max_model_len // facts.block_size)
        self.seats: dict[int, NewRow] = {}
        self._seeds = np.zeros(num_rows, np.uint64)
        self._length = np.zeros(num_rows, np.int32)
        self._computed = np.zeros(num_rows, np.int32)
        self._num_blocks = np.zeros(num_rows, np.int32)
        self._tables = np.zeros((num_rows, per_row), np.int32)
        self._pools = np.zeros(num_rows, np.bool_)
        self._owners = np.zeros(facts.num_blocks, np.int32)  # rows that have a block in their table
        self._slots = np.full(facts.num_blocks * facts.block_size, NOTHING, np.uint64) if verify else None
        self._signatures: dict[int, UInt64s] = {}  # row → signature of each position

    def apply(self, plan: StepPlan) -> Int32s:
        """Follow a plan; return the token sampled for each of its rows `[num_rows]`, meaningless where none was."""
        for row in plan.freed_rows:
            self._leave(plan, row)
        for new in plan.new_rows:
            self._sit(plan, new)
        self._extend_tables(plan)
        work = self._check(plan)
        if self._slots is not None:
            self._copy_blocks(plan, self._slots)
        tokens = pseudo_tokens(self._seeds[work.rows], work.ends, self.vocab_size)
        if self._slots is not None:
            self._compute(plan, work, tokens, self._slots)
        self._computed[work.rows] = work.ends
        self._length[work.rows] += work.samples
        return tokens

    # -- the plan's changes --------------------------------------------------------------------------------------------

    def _leave(self, plan: StepPlan, row: int) -> None:
        _require(self.seats.pop(row, None) is not None, plan, f"row {row} is freed and nobody sits there")
        self._owners[self._tables[row, : self._num_blocks[row]]] -= 1
        self._signatures.pop(row, None)

    def _sit(self, plan: StepPlan, new: NewRow) -> None:
        row, count = new.row, len(new.token_ids)
        _require(0 <= row < self.facts.max_rows, plan, f"row {row} does not exist")
        _require(row not in self.seats, plan, f"row {row} is given to a second request")
        _require(
            1 <= new.prompt_len <= count < self.facts.max_model_len + 1, plan, f"row {row} starts with {count} tokens"
        )
        self.seats[row] = new
        self._seeds[row] = np.uint64(new.seed & (2**64 - 1))
        self._length[row], self._computed[row] = count, -1  # where it starts is the plan's choice: a prefix hit
        self._pools[row] = bool(new.pooling)
        self._num_blocks[row] = 0
        for block in new.block_ids.tolist():
            self._append_block(plan, row, block)
        self._check_resumed(plan, new)
        if self.verify:
            self._signatures[row] = _signatures(new.token_ids)

    def _check_resumed(self, plan: StepPlan, new: NewRow) -> None:
        """After a preemption, the output that the host gives back is the output that was sampled."""
        output = new.token_ids[new.prompt_len :]
        if len(output):
            positions = np.arange(new.prompt_len, len(new.token_ids))
            sampled = pseudo_tokens(np.full(len(output), self._seeds[new.row]), positions, self.vocab_size)
            _require(bool((output == sampled).all()), plan, f"row {new.row} comes back with other tokens")

    def _extend_tables(self, plan: StepPlan) -> None:
        new = plan.new_blocks
        for row, index, block in zip(new.rows.tolist(), new.indices.tolist(), new.block_ids.tolist(), strict=True):
            _require(row in self.seats, plan, f"block {block} is given to row {row}, where nobody sits")
            _require(index == self._num_blocks[row], plan, f"row {row} gets block {index} out of order")
            self._append_block(plan, row, block)

    def _append_block(self, plan: StepPlan, row: int, block: int) -> None:
        in_range = self.facts.reserved_blocks <= block < self.facts.num_blocks
        _require(in_range, plan, f"row {row} is given block {block}, which requests cannot have")
        index = self._num_blocks[row]
        _require(index < self._tables.shape[1], plan, f"row {row} has more blocks than the longest sequence")
        self._tables[row, index] = block
        self._num_blocks[row] += 1
        self._owners[block] += 1

    # -- checks --------------------------------------------------------------------------------------------------------

    def _check(self, plan: StepPlan) -> Work:
        rows = plan.rows.astype(np.intp)
        work = Work(rows, plan.starts, plan.starts + plan.counts, plan.samples)
        taken = rows.tolist()
        _require(0 < len(taken) == len(set(taken)), plan, "no row is scheduled, or one twice")
        _require(self.seats.keys() >= set(taken), plan, "a row is scheduled where nobody sits")
        _require(bool((plan.counts >= 1).all()), plan, "a row is scheduled for nothing")
        known = self._computed[rows]
        continues = (plan.starts == known) | ((known < 0) & (plan.starts >= 0))
        _require(bool(continues.all()), plan, f"rows {rows[~continues]} do not go on where they stopped")
        length = self._length[rows]
        _require(bool((work.ends <= length).all()), plan, "a position is computed whose token does not exist yet")
        samples = (work.ends == length) & ~self._pools[rows]
        _require(bool((plan.samples == samples).all()), plan, "a row samples too early, or misses to")
        self._check_blocks(plan, work)
        self._check_limits(plan)
        return work

    def _check_blocks(self, plan: StepPlan, work: Work) -> None:
        """Every written position has a block, and nobody else has it."""
        last = (work.ends - 1) // self.facts.block_size
        _require(bool((last < self._num_blocks[work.rows]).all()), plan, "a position is computed that has no block")
        first = work.starts // self.facts.block_size
        spans = last - first + 1
        rows = np.repeat(work.rows, spans)
        offsets = np.arange(len(rows)) - np.repeat(np.cumsum(spans) - spans, spans)
        shared = self._owners[self._tables[rows, np.repeat(first, spans) + offsets]] != 1
        _require(not shared.any(), plan, f"rows {rows[shared]} write to a block that others read")

    def _check_limits(self, plan: StepPlan) -> None:
        limits, counts = self.facts.schedule, plan.counts
        news = np.isin(plan.rows, [new.row for new in plan.new_rows])
        chunks = (counts > 1) | news
        if not limits.mix_prefill_decode:
            _require(bool(chunks.all()) or not chunks.any(), plan, "prefill and decode are mixed")
        if limits.max_prefill_requests is not None:
            _require(int(chunks.sum()) <= limits.max_prefill_requests, plan, f"{int(chunks.sum())} rows prefill")
        cut = ~plan.samples & ~(self._pools[plan.rows] & (plan.starts + counts == self._length[plan.rows]))
        _require(not (counts[cut] % limits.chunk_multiple).any(), plan, f"chunks of {counts[cut]} tokens")
        for name, count, buckets in (
            ("tokens", plan.num_tokens, limits.token_buckets),
            ("rows", len(counts), limits.row_buckets),
        ):
            _require(not buckets or count <= max(buckets), plan, f"{count} {name} are more than any bucket holds")

    # -- content -------------------------------------------------------------------------------------------------------

    def _copy_blocks(self, plan: StepPlan, slots: UInt64s) -> None:
        blocks = slots.reshape(-1, self.facts.block_size)
        for source, target in plan.block_copies.tolist():
            _require(bool((blocks[source] != NOTHING).any()), plan, f"block {source} is copied and holds nothing")
            blocks[target] = blocks[source]

    def _compute(self, plan: StepPlan, work: Work, tokens: Int32s, slots: UInt64s) -> None:
        """Write each row's slots, then read all that it attends to."""
        entries = list(zip(work.rows.tolist(), work.starts.tolist(), work.ends.tolist(), strict=True))
        for row, start, end in entries:
            slots[self._slots_of(row, start, end)] = self._signatures[row][start:end]
        for index, (row, _, end) in enumerate(entries):
            right = slots[self._slots_of(row, 0, end)] == self._signatures[row][:end]
            wrong = (~right).nonzero()[0]
            _require(not len(wrong), plan, f"row {row} reads another sequence's content at positions {wrong[:8]}")
            if work.samples[index]:
                self._signatures[row] = _extend_signatures(self._signatures[row], int(tokens[index]))

    def _slots_of(self, row: int, start: int, end: int) -> npt.NDArray[np.int64]:
        positions = np.arange(start, end)
        blocks = self._tables[row, positions // self.facts.block_size].astype(np.int64)
        slots: npt.NDArray[np.int64] = blocks * self.facts.block_size + positions % self.facts.block_size
        return slots


def _signatures(token_ids: Int32s) -> UInt64s:
    """Return for each position a number that depends on all tokens up to it, and in practice is never NOTHING."""
    positions = np.arange(len(token_ids), dtype=np.uint64)
    terms = _mix((positions << np.uint64(32)) + token_ids.astype(np.uint64))
    sums: UInt64s = np.cumsum(terms, dtype=np.uint64)
    return sums


def _extend_signatures(signatures: UInt64s, token_id: int) -> UInt64s:
    position = np.array([len(signatures)], np.uint64)
    term = _mix((position << np.uint64(32)) + np.uint64(token_id))
    return np.concatenate((signatures, signatures[-1:] + term))


def _require(ok: bool, plan: StepPlan, what: str) -> None:
    if not ok:
        raise BackendError(f"the plan of step {plan.step} contradicts the device: {what}")
