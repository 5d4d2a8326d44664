"""TorchExecutor: runs plans with torch on any device, through the contract's hooks alone.

A step: apply the plan's deltas to the persistent rows, copy blocks, send the inputs in one copy, run the program, begin
copying the chosen tokens to the host. `collect` waits for that copy. Rows that ask for more than temperature and
truncation (see `logits.py`) take the same model program, and choose their tokens outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quire.backend.contract import ExecutorContext, ExecutorFacts, HostRead, MemoryModel
from quire.backend.host_memory import give_back_freed
from quire.errors import BackendError
from quire.execution import kv_cache
from quire.execution.build import Runtime, build_runtime
from quire.execution.footprint import full_step, measure_activations
from quire.execution.special import NO_EXTRAS, Extras
from quire.execution.step import Sampled
from quire.execution.work_queue import InlineQueue, ThreadQueue, WorkQueue
from quire.plan import StepPlan, StepResult

if TYPE_CHECKING:
    from quire.backend.manager import OpenBackend

BROKEN = "the model's numbers are not finite (NaN or Inf) at position {}; check the weights, or use a wider dtype"


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step under way: what `collect` waits for. The reads are None where no row sampled."""

    plan: StepPlan
    token_ids: HostRead | None
    finite: HostRead | None
    extras: Extras


class TorchExecutor:
    """The default executor. Thread: `submit` and `collect` are called by one thread."""

    def __init__(self, context: ExecutorContext, backend: OpenBackend) -> None:
        self._context = context
        self._backend = backend
        self._queue = self._make_queue()
        self._runtime: Runtime | None = None
        self._activations_bytes: int | None = None

    @property
    def runtime(self) -> Runtime:
        assert self._runtime is not None, "the executor is used before start() or after stop()"
        return self._runtime

    def start(self) -> ExecutorFacts:
        """Load weights, size and allocate KV, prepare programs. Raise CapacityError, ModelError."""
        with torch.inference_mode():
            self._runtime = build_runtime(self._context, self._backend)
        give_back_freed()  # planning and loading leave as much as 150 MB of heap behind
        return self._runtime.facts

    def submit(self, plan: StepPlan) -> Callable[[], PendingStep]:
        """Begin a step."""
        return self._queue.submit(lambda: self._launch(plan))

    def collect(self, ticket: Callable[[], PendingStep]) -> StepResult:
        """Wait for that step and read what it chose."""
        pending = ticket()
        token_ids, errors = read_tokens(pending)
        extras = pending.extras
        return StepResult(
            pending.plan.step, token_ids, extras.sampled_logprobs(), extras.prompt(), extras.pooled(), errors
        )

    def read_kv(self, layer: int, block_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as `[block, head, slot, dim]` on the host."""
        return kv_cache.read(self.runtime.caches[layer], block_ids)

    def memory_report(self) -> Mapping[str, int]:
        """Return bytes by region, and of the activations of a full step, which is run for it the first time. Workspace
        has in it what kernels say that they keep for themselves."""
        allocator = self.runtime.allocator
        if self._activations_bytes is None:
            self._activations_bytes = self._queue.submit(self._measure_activations)()
        regions = {tag: allocator.used_bytes(tag) for tag in ("weights", "kv", "workspace")}
        regions["workspace"] += self.runtime.plan.scratch_bytes
        return {**regions, "activations": self._activations_bytes}

    def suspend(self) -> int:
        """Save the weights on the host and give their memory and that of KV back; return the bytes freed. Raise
        BackendError where the backend does not claim "sleep"."""
        if "sleep" not in self._context.caps.features:
            name = self._context.selection.name
            raise BackendError(f"backend {name!r} cannot give its memory back; stop the engine instead")
        self._context.device.synchronize()
        allocator = self.runtime.allocator
        return allocator.suspend("weights", keep=True) + allocator.suspend("kv", keep=False)

    def resume(self) -> None:
        """Take the memory again and put the weights back; KV holds nothing that is known. Raise CapacityError."""
        for tag in ("weights", "kv"):
            self.runtime.allocator.resume(tag)

    def stop(self) -> None:
        """Wait for what runs, then give everything back."""
        self._queue.close()
        if self._runtime is None:
            return
        self._context.device.synchronize()
        for tag in ("kv", "weights", "workspace"):
            self._runtime.allocator.release(tag)
        self._runtime = None

    def _make_queue(self) -> WorkQueue:
        config, caps = self._context.config, self._context.caps
        blocking = caps.memory is MemoryModel.UNIFIED and config.overlap and caps.max_in_flight > 1
        return ThreadQueue() if blocking else InlineQueue()

    def _measure_activations(self) -> int:
        context, runtime = self._context, self.runtime
        step = full_step(context.config, context.spec, context.table, runtime.plan.formats)
        return measure_activations(runtime.model, runtime.caches, step, context.device.torch_device)

    def _launch(self, plan: StepPlan) -> PendingStep:
        runtime = self.runtime
        with torch.inference_mode():
            runtime.rows.apply(plan)
            if len(plan.block_copies):
                self._copy_blocks(plan)
            sampled, extras = self._compute(plan)
            return self._pending(plan, sampled, extras)

    def _copy_blocks(self, plan: StepPlan) -> None:
        pairs = self.runtime.rows.upload(plan.block_copies).long()
        for key_cache, value_cache in self.runtime.caches:
            self.runtime.block_copy(key_cache, value_cache, pairs)

    def _compute(self, plan: StepPlan) -> tuple[Sampled | None, Extras]:
        runtime = self.runtime
        if runtime.rows.special[plan.rows].any():
            return runtime.special.run(plan)
        if not plan.samples.any():
            runtime.programs.run(runtime.step.fill, plan)
            return None, NO_EXTRAS
        drawn = runtime.rows.drawn[plan.rows].any()
        sampled, _ = runtime.programs.run(runtime.step.choosing(bool(drawn)), plan)
        return sampled, NO_EXTRAS

    def _pending(self, plan: StepPlan, sampled: Sampled | None, extras: Extras) -> PendingStep:
        if sampled is None:
            return PendingStep(plan, None, None, extras)
        device, count = self._context.device, int(plan.samples.sum())
        token_ids, finite = sampled.token_ids[:count], sampled.finite[:count]
        return PendingStep(plan, device.to_host(token_ids), device.to_host(finite), extras)


def read_tokens(pending: PendingStep) -> tuple[tuple[tuple[int, ...], ...], dict[int, str]]:
    """Wait for a step; return the tokens appended to each of its rows, and what is wrong with a row, by index."""
    plan = pending.plan
    token_ids: list[tuple[int, ...]] = [()] * len(plan.rows)
    errors: dict[int, str] = {}
    if pending.token_ids is None or pending.finite is None:
        return tuple(token_ids), errors
    indices = plan.samples.nonzero()[0].tolist()
    chosen, finite = pending.token_ids.wait().tolist(), pending.finite.wait().tolist()
    for index, token_id, sound in zip(indices, chosen, finite, strict=True):
        token_ids[index] = (token_id,)
        if not sound:
            errors[index] = BROKEN.format(int(plan.starts[index] + plan.counts[index] - 1))
    return tuple(token_ids), errors
