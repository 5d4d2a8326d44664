"""Who computes how many tokens in the next step.

One pass over the running requests, then one over the queue's front; see `Scheduler` for the policy. The parts that
touch every running request work on whole columns (`RowTable`) instead of one Python iteration for each.
"""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quire.plan import Bools, Int32s, NewBlocks
from quire.scheduling.admission import AdmissionQueue
from quire.scheduling.ledger import Ledger, PrefixMatch
from quire.scheduling.limits import StepLimits
from quire.scheduling.request import Request, RequestStatus
from quire.scheduling.roster import NO_ORDER, Order, Roster
from quire.scheduling.stats import StepCounters
from quire.scheduling.steps import StepDraft


class Survey(NamedTuple):
    """Where the running requests stand, parallel to `order`: positions computed, how many more to compute, and whether
    that is one, to sample after."""

    order: Order
    computed: Int32s
    want: Int32s
    decodes: Bools


class Planner:
    """Fills a draft with as much work as limits, rows and blocks allow. `watermark` blocks stay free at admission."""

    def __init__(
        self,
        limits: StepLimits,
        ledger: Ledger,
        roster: Roster,
        queue: AdmissionQueue,
        counters: StepCounters,
        watermark: int,
    ) -> None:
        self.limits = limits
        self.ledger = ledger
        self.pool = ledger.pool
        self.rows = ledger.rows
        self.block_size = ledger.block_size
        self.roster = roster
        self.queue = queue
        self.counters = counters
        self.watermark = watermark
        self._prefilled_last = False

    def plan(self) -> StepDraft:
        """Return the next step, empty if nothing can run."""
        draft = self.new_draft()
        self._fill(draft)
        while draft.is_empty and self._is_stuck():
            self.preempt(draft)
            self._fill(draft)
        return draft

    def new_draft(self) -> StepDraft:
        """Return an empty step with the whole budget."""
        return StepDraft(self.limits.budget, self.limits.max_prefills)

    def leave_row(self, request: Request, publish: bool = True) -> None:
        """Take row and blocks from a running request; the prefix cache keeps what it computed, if `publish`."""
        if publish:
            self.ledger.publish(request, request.num_computed_tokens)
        self.roster.leave(request, self.ledger.release(request))

    def preempt(self, draft: StepDraft) -> None:
        """Send the running request that is last in the policy's order back to the queue."""
        victim = max(self.roster.running.values(), key=self.queue.order)
        victim.num_unseen = victim.num_pending
        self.leave_row(victim)
        victim.status = RequestStatus.WAITING
        victim.num_preemptions += 1
        self.counters.num_preemptions += 1
        self.queue.add(victim)
        draft.has_preempted = True

    def _fill(self, draft: StepDraft) -> None:
        if self.limits.mix_prefill_decode:
            self._plan_chunks(draft, self._plan_decodes(draft))
            self._admit(draft)
            return
        if self._prefilled_last:  # take turns, so that neither side starves
            self._plan_decodes(draft)
        if draft.decodes is NO_ORDER:
            self._plan_chunks(draft, self._survey())
            self._admit(draft)
        if draft.is_empty:
            self._plan_decodes(draft)
        self._prefilled_last = bool(draft.chunks)

    def _survey(self) -> Survey:
        rows, order = self.rows, self.roster.order
        computed = rows.computed[order.rows]
        want = np.minimum(rows.length[order.rows], rows.end[order.rows]) - computed
        decodes = want == 1
        if self.roster.num_pooling:
            decodes &= ~rows.pooling[order.rows]
        return Survey(order, computed, want, decodes)

    def _plan_decodes(self, draft: StepDraft) -> Survey:
        """Schedule every running request that wants one token; preempt until their blocks suffice.

        The length of this function is for speed: one pass of array operations over all running requests.
        """
        while True:
            survey = self._survey()
            order, starts, _, decodes = survey
            if (count := int(np.count_nonzero(decodes))) == 0:
                return survey
            if count < len(order.requests):
                order, starts = order.select(decodes), starts[decodes]
            full = (starts >= self.rows.capacity[order.rows]).nonzero()[0]
            if len(full) <= self.pool.num_free:
                break
            self.preempt(draft)
        if len(full):
            draft.decode_blocks = self._extend(order, full, starts)
        computed = starts + 1
        final = computed == self.rows.end[order.rows]
        if final.any():
            draft.finals = [order.requests[index] for index in final.nonzero()[0].tolist()]
        self.rows.computed[order.rows] = computed
        self.rows.length[order.rows] = computed + 1
        self.ledger.num_unwritten -= count
        draft.decodes, draft.decode_starts = order, starts
        draft.budget -= count
        return survey

    def _extend(self, order: Order, full: npt.NDArray[np.intp], starts: Int32s) -> NewBlocks:
        """Give one block to each row whose blocks are full, and offer the full ones to the prefix cache."""
        blocks = self.pool.allocate(len(full))
        publish = self.ledger.publish
        for index, start, block in zip(full.tolist(), starts[full].tolist(), blocks, strict=True):
            request = order.requests[index]
            publish(request, start)
            request.block_ids.append(block)
        rows = order.rows[full]
        indices = self.rows.capacity[rows] // self.block_size
        self.rows.capacity[rows] += self.block_size
        self.ledger.num_unwritten += len(full) * self.block_size
        return NewBlocks(order.plan_rows[full], indices, np.array(blocks, np.int32))

    def _plan_chunks(self, draft: StepDraft, survey: Survey) -> None:
        """Continue the prompts of running requests in the policy's order, as far as budget and blocks go."""
        requests = survey.order.requests
        indices = ((survey.want > 0) & ~survey.decodes).nonzero()[0].tolist()
        for index in sorted(indices, key=lambda index: self.queue.order(requests[index])):
            if not draft.has_room:
                return
            request, start = requests[index], int(survey.computed[index])
            slots = (len(request.block_ids) + self.pool.num_free) * self.block_size - start
            count = self.limits.chunk(int(survey.want[index]), min(draft.budget, slots))
            if count > 0:
                draft.growths.append((request.row, self.ledger.grow(request, start + count)))
                self._add_chunk(draft, request, start, count)

    def _add_chunk(self, draft: StepDraft, request: Request, start: int, count: int) -> None:
        end = start + count
        samples = not request.pooling and end == int(self.rows.length[request.row])
        draft.add_chunk(request, start, count, samples)
        self.ledger.compute(request, count, samples)
        if self.ledger.use_prefix_cache:
            hashes = self.ledger.hashes(request, min(end, request.num_tokens))
            draft.hashes.update(hashes[start // self.block_size : end // self.block_size])

    # -- admission -----------------------------------------------------------------------------------------------------

    def _admit(self, draft: StepDraft) -> None:
        """Seat waiting requests in order while there is room. One that waits for a prefix being computed right now is
        passed over until the next step; one that does not fit holds up those behind it."""
        if not len(self.queue) or not self.rows.num_free or draft.has_preempted:
            return
        owed = self._blocks_owed()
        passed = 0
        while draft.has_room and self.rows.num_free and passed < self.rows.num_rows:
            request = self.queue.first()
            if request is None or request.num_unseen:
                break
            match = self._match(draft, request)
            if match is None:
                self.queue.set_aside()
                passed += 1
                continue
            match = self._fitting(request, match, owed)
            count = 0 if match is None else self.limits.chunk(request.num_tokens - match.computed, draft.budget)
            if match is None or count == 0:
                break
            self._seat(draft, self.queue.pop(), match, count)
            owed += self.ledger.num_blocks(request.num_tokens) - len(request.block_ids)
        self.queue.restore()

    def _blocks_owed(self) -> int:
        """Blocks that running requests still need for the tokens that they have."""
        order = self.roster.order
        owned = self.rows.capacity[order.rows] // self.block_size
        needed = -(-self.rows.length[order.rows] // self.block_size)
        return int(np.maximum(needed - owned, 0).sum())

    def _match(self, draft: StepDraft, request: Request) -> PrefixMatch | None:
        """Return the KV that a waiting request need not compute, or None if it pays to wait for more."""
        leader = request.leader
        if leader is not None and request.num_output_tokens == 0 and self._leads(leader, request):
            if leader.num_computed_tokens < leader.prompt_len or leader in draft.chunks:
                return None
            return self.ledger.fork_prompt(leader)
        match = self.ledger.find_prefix(request)
        return None if self._pays_to_wait(draft, request, match) else match

    def _pays_to_wait(self, draft: StepDraft, request: Request, match: PrefixMatch) -> bool:
        """Whether this very step computes, for others, at least half of what the request would have to compute."""
        if not draft.hashes or request.needs_all_positions:
            return False
        missing = request.block_hashes[len(match.blocks) + (match.copy_from is not None) :]
        coming = sum(1 for _ in takewhile(draft.hashes.__contains__, missing)) * self.block_size
        return coming > 0 and 2 * coming >= request.num_tokens - match.computed

    def _leads(self, leader: Request, request: Request) -> bool:
        """Whether a leader runs, or will before the request, so that its prompt is worth waiting for."""
        if leader.status is RequestStatus.WAITING:
            return self.queue.order(leader) < self.queue.order(request)
        return leader.status is RequestStatus.RUNNING

    def _fitting(self, request: Request, match: PrefixMatch, owed: int) -> PrefixMatch | None:
        """Return the match if the request's known tokens fit beside what is owed and the watermark."""
        room = self.pool.num_free - owed - (self.watermark if len(self.roster) else 0)
        if self.ledger.blocks_taken(request, match) <= room:
            return match
        smaller = self.ledger.without_copy(match)  # a copy's source stays owned for this plan: one block more
        return smaller if self.ledger.blocks_taken(request, smaller) <= room else None

    def _seat(self, draft: StepDraft, request: Request, match: PrefixMatch, count: int) -> None:
        row = self.ledger.seat(request, match, match.computed + count)
        draft.new_rows.append(row)
        if match.copy_from is not None:
            draft.copies.append((match.copy_from, request.block_ids[len(match.blocks)]))
        if request.num_cached_tokens < 0:
            request.num_cached_tokens = match.computed
        self.counters.count_admission(request.num_tokens, match.computed)
        self.roster.join(request)
        self._add_chunk(draft, request, match.computed, count)

    def _is_stuck(self) -> bool:
        """Whether nothing is under way and blocks are so short that only a preemption can help."""
        return not self.roster.under_way and len(self.roster) > 1
