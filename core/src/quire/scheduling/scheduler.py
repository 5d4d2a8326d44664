"""Who runs, and what becomes of it. Host integers only: no tensor, no device.

There is no prefill or decode phase: each request has `computed` positions chasing its `length`, and one token budget
serves all. Running requests go first, those that want one token (decodes) before those that want more (chunks of a
prompt); then waiting requests are admitted while budget, rows and blocks last. When blocks run out, the running request
that is last in the policy's order loses its row and blocks, and computes again later what the prefix cache no longer
has. (Iteration-level scheduling: Orca, Yu et al. 2022; paged blocks: PagedAttention, Kwon et al. 2023; chunked prefill:
Sarathi-Serve, Agrawal et al. 2024.)

Steps may overlap: `schedule` for step n+1 may come before `commit` of step n. Tokens sampled in between are pending:
they count in `length`, the device has them, the host does not. The device runs steps in order, so a block that is freed
at a commit may be given out in the next plan, whatever is still under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec.structs import replace

from quire.backend.contract import ExecutorFacts
from quire.config import EngineConfig
from quire.errors import RequestError
from quire.plan import StepPlan, StepResult
from quire.scheduling.admission import AdmissionQueue
from quire.scheduling.blocks import BlockPool
from quire.scheduling.commit import Decodes, Progress, accept, stop_candidates, stopped, unreported
from quire.scheduling.ledger import Ledger
from quire.scheduling.limits import step_limits
from quire.scheduling.planner import Planner
from quire.scheduling.request import Request, RequestStatus
from quire.scheduling.roster import Roster, StepRecord
from quire.scheduling.rows import RowTable
from quire.scheduling.stats import SchedulerStats, StepCounters
from quire.scheduling.steps import StepDraft

NO_EMBEDDING = (
    "this backend's executor gives no hidden states, so there are no embeddings; generate, chat and score work"
)


class Scheduler:
    """Owns all requests from `add` until they finish. Not thread-safe: the engine loop calls it."""

    def __init__(self, config: EngineConfig, facts: ExecutorFacts) -> None:
        self.limits = step_limits(config, facts)
        self.block_size = facts.block_size
        self.max_model_len = min(facts.max_model_len, config.max_model_len or facts.max_model_len)
        self.pool = BlockPool(facts.num_blocks, facts.reserved_blocks)
        self.ledger = Ledger(self.pool, RowTable(self.limits.num_rows), facts.block_size, config.enable_prefix_caching)
        self.queue = AdmissionQueue(config.policy, config.max_queued_requests, config.max_queued_tokens)
        self.roster = Roster()
        self.counters = StepCounters()
        watermark = int(config.watermark * self.pool.num_usable)
        self.planner = Planner(self.limits, self.ledger, self.roster, self.queue, self.counters, watermark)
        self._requests: dict[str, Request] = {}
        self._leaders: dict[str, Request] = {}  # group → its first unfinished request
        self._stop_ids: Counter[int] = Counter()  # token ids that end some request
        self._num_steps = 0

    # -- requests ------------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Take a request into the queue. Raise RequestError if it can never run, QueueFullError if not now."""
        self._check(request)
        wanted = 1 if request.pooling else request.params.max_tokens
        request.max_length = min(self.max_length, request.prompt_len + wanted if wanted else self.max_length)
        self.queue.check_room(request.num_tokens)
        if request.group is not None:
            leader = self._leaders.setdefault(request.group, request)
            request.leader = None if leader is request else leader
        self._requests[request.request_id] = request
        self._stop_ids.update(request.stop_ids)
        self.queue.add(request)

    def abort(self, request_id: str) -> Request | None:
        """End a request at once, whatever it is doing. Unknown ids are ignored: it may just have finished."""
        return self.finish(request_id, "abort")

    def finish(self, request_id: str, reason: str) -> Request | None:
        """End a request for a reason found outside, e.g. a stop string; tokens under way are dropped."""
        request = self._requests.get(request_id)
        if request is not None:
            self._finish(request, reason)
        return request

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        return len(self.roster)

    @property
    def num_waiting(self) -> int:
        return len(self.queue)

    def stats(self) -> SchedulerStats:
        return self.counters.report(self.num_running, self.num_waiting, self.pool)

    def reset_prefix_cache(self) -> int:
        """Forget all cached prefixes, e.g. because the weights changed; return how many blocks that were."""
        return self.ledger.reset_prefix_cache(self.roster.running.values())

    def close(self) -> None:
        """Let go of what a scheduler may hold beside memory, e.g. a recording; a plain one holds nothing."""

    def check_integrity(self) -> None:
        """Assert that every block and row is accounted for. For tests, and for an engine at rest."""
        rows = self.ledger.rows
        self.ledger.check_integrity(list(self.roster.running.values()))
        assert len(self.roster) + rows.num_free == rows.num_rows, "a row has no request and is not free"
        assert len(self.roster) + len(self.queue) == len(self._requests), "a request neither runs nor waits"
        assert self._requests or not (self._stop_ids or self._leaders), "something is kept of requests that are gone"

    # -- steps ---------------------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan | None:
        """Plan the next step, or return None: nothing can run before something is added or committed."""
        if not self._requests:
            return None
        draft = self.planner.plan()
        return None if draft.is_empty else self._seal(draft)

    def prefilling(self, plan: StepPlan) -> list[Request]:
        """Return the requests of a step under way that want more than one token of it: all new rows are among them."""
        return self.roster.under_way[plan.step].chunks

    def commit(self, plan: StepPlan, result: StepResult) -> list[Progress]:
        """Append what a step sampled and end what is complete; return what is new. Raise BackendError on a result that
        does not answer the plan."""
        record = self.roster.under_way.pop(plan.step)
        failed = self._fail(record, result.errors) if result.errors else []
        return failed + self._commit_decodes(plan, record, result) + self._commit_chunks(plan, record, result)

    def _seal(self, draft: StepDraft) -> StepPlan:
        for request in draft.chunks:
            self.ledger.publish(request, request.num_computed_tokens)
        self.pool.free([source for source, _ in draft.copies])
        plan = draft.build(self._num_steps, self.roster.take_freed_rows())
        self.roster.under_way[plan.step] = draft.record()
        self._num_steps += 1
        slots = self.pool.num_used * self.block_size
        self.counters.count_step(self.limits.budget - draft.budget, self.ledger.num_unwritten, slots)
        return plan

    # -- results -------------------------------------------------------------------------------------------------------

    def _commit_decodes(self, plan: StepPlan, record: StepRecord, result: StepResult) -> list[Progress]:
        decodes, late = Decodes.of(record.decodes, result), []
        if record.is_stale:
            late = self._commit_late(decodes.select(RequestStatus.WAITING))
            decodes = decodes.select(RequestStatus.RUNNING)
        token_ids = decodes.append(plan.step)
        progress = decodes.progress()
        for index in stop_candidates(token_ids, self._stop_ids):
            if decodes.requests[index].stops_at(token_ids[index]):
                progress[index] = self._end(stopped(progress[index]))
        for request in record.finals:
            if request.status is RequestStatus.RUNNING:
                index = decodes.requests.index(request)
                progress[index] = self._end(replace(progress[index], finish_reason="length"))
        return progress + late

    def _commit_late(self, decodes: Decodes) -> list[Progress]:
        """Commit tokens of requests that were preempted while the step was under way."""
        logprobs = decodes.logprobs or [None] * len(decodes.requests)
        rows = zip(decodes.requests, decodes.token_ids, logprobs, strict=True)
        return [self._commit_row(Progress(request, token_ids, found), 0) for request, token_ids, found in rows]

    def _commit_chunks(self, plan: StepPlan, record: StepRecord, result: StepResult) -> list[Progress]:
        progress = []
        for index, request in enumerate(record.chunks, len(record.decodes.requests)):
            if request.is_finished:
                continue
            found = result.prompt_logprobs.get(index)
            prompt_logprobs = unreported(request, int(plan.starts[index]), found) if found else None
            item = Progress(request, result.token_ids[index], result.logprobs.get(index), prompt_logprobs)
            if item.new_token_ids:
                progress.append(self._commit_row(item, len(plan.drafts.get(index, ()))))
            elif index in result.embeddings:
                progress.append(self._end(replace(item, finish_reason="stop", embedding=result.embeddings[index])))
            elif request.pooling and plan.starts[index] + plan.counts[index] == request.prompt_len:
                progress.append(self._end(replace(item, finish_reason="error", error=NO_EMBEDDING)))
            elif prompt_logprobs:
                progress.append(item)
        return progress

    def _commit_row(self, item: Progress, num_drafts: int) -> Progress:
        """Commit one row's tokens: any number of them, whether the request still has its row or was preempted."""
        request, token_ids = item.request, item.new_token_ids
        if request.status is RequestStatus.WAITING:
            request.num_unseen -= 1
        elif (surplus := len(token_ids) - 1) or num_drafts:
            self.ledger.correct(request, num_drafts - surplus, surplus)
        item = accept(item)
        return self._end(item) if item.finish_reason else item

    def _end(self, item: Progress) -> Progress:
        assert item.finish_reason is not None, "an output ends for a reason"
        self._finish(item.request, item.finish_reason)
        return item

    def _fail(self, record: StepRecord, errors: Mapping[int, str]) -> list[Progress]:
        """End requests whose numbers went wrong; nobody may find what they left in the cache."""
        requests = [*record.decodes.requests, *record.chunks]
        progress = []
        for index, error in errors.items():
            if (request := requests[index]).is_finished:
                continue
            if request.status is RequestStatus.WAITING:
                self.reset_prefix_cache()  # it was preempted, and which blocks it left is not known any more
            self._finish(request, "error")
            record.is_stale = True
            progress.append(Progress(request, (), finish_reason="error", error=error))
        return progress

    def _finish(self, request: Request, reason: str) -> None:
        if request.status is RequestStatus.RUNNING:
            if reason == "error":
                self.pool.forget(request.block_ids)
            self.planner.leave_row(request, publish=reason != "error")
        self.queue.forget(request)
        request.status, request.finish_reason = RequestStatus.FINISHED, reason
        request.leader, request.num_unseen = None, 0
        if request.group is not None and self._leaders.get(request.group) is request:
            del self._leaders[request.group]
        del self._requests[request.request_id]
        self._stop_ids.subtract(request.stop_ids)
        for token in request.stop_ids:
            if not self._stop_ids[token]:
                del self._stop_ids[token]

    # -- acceptance ----------------------------------------------------------------------------------------------------

    @property
    def max_length(self) -> int:
        """Tokens that a sequence may have. The last one sampled is never computed, so it needs no slot."""
        return min(self.max_model_len, self.pool.num_usable * self.block_size + 1)

    def _check(self, request: Request) -> None:
        leader = self._leaders.get(request.group) if request.group is not None else None
        if leader is not None and not request.begins_like(leader):
            raise RequestError(
                f"group {request.group!r} has another prompt, LoRA or cache salt already; its requests must agree",
                param="group",
            )
        if request.request_id in self._requests:
            raise RequestError(f"request id {request.request_id!r} is in use; ids must be unique", param="request_id")
        if request.prompt_len == 0:
            raise RequestError("the prompt is empty; it must have at least one token", param="prompt")
        if request.prompt_len >= self.max_length:
            raise RequestError(
                f"the prompt has {request.prompt_len} tokens; at most {self.max_length - 1} leave room for one more "
                f"(max_model_len is {self.max_model_len}, the KV cache has {self.pool.num_usable} blocks of "
                f"{self.block_size}); shorten it, or start with a larger max_model_len or num_blocks",
                param="prompt",
            )
