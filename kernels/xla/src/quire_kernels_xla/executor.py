"""StaticExecutor: runs plans on a device where every shape is known when the engine starts.

The core's model and step functions are traced and compiled for each bucket. The core's rows live twice: on the host,
where what a request asks beyond a token is worked out, and on the device, where steps read them. Nothing compiles after
`start`, unless programs were asked to be built when they are first used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from quire.backend.contract import ExecutorContext, ExecutorFacts, KernelRequest, KVConstraints, StepFunction
from quire.backend.host_device import HostDevice
from quire.errors import CapacityError
from quire.execution.parts import (
    NO_EXTRAS,
    Extras,
    MemoryPlan,
    PendingStep,
    ProgramLimits,
    Programs,
    Rows,
    Sampled,
    SpecialStep,
    StepFunctions,
    TorchAllocator,
    bind_step,
    build_model,
    executor_facts,
    plan_memory,
    read_tokens,
)
from quire.plan import StepPlan, StepResult
from quire_kernels_xla import bridge, tables
from quire_kernels_xla.buckets import StaticProgramBuilder
from quire_kernels_xla.session import Check, Session
from quire_kernels_xla.special import HostPrograms, HostStep


class Runtime(NamedTuple):
    """Everything of a started executor."""

    session: Session
    rows: Rows
    step: StepFunctions
    functions: tuple[StepFunction, ...]  # those that programs are built of
    programs: Programs
    special: SpecialStep
    seat: Callable[[np.ndarray], None]
    append_blocks: Callable[[np.ndarray], None]
    copy_blocks: Callable[[np.ndarray], None]


class ArrayRead:
    """The first `count` entries of an array on its way to the host."""

    def __init__(self, array: Any, count: int) -> None:
        self._array = array
        self._count = count
        if isinstance(array, jax.Array):
            array.copy_to_host_async()

    def wait(self) -> torch.Tensor:
        """Block until they are here."""
        return bridge.to_host(self._array)[: self._count]


class StaticExecutor:
    """The contract's executor. `ahead`: build every program in `start`, not when it is first used."""

    def __init__(
        self,
        context: ExecutorContext,
        builder: StaticProgramBuilder,
        ahead: bool = True,
        check: Check = lambda text: None,
    ) -> None:
        self._context = context
        self._builder = builder
        self._ahead = ahead
        self._check = check
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        assert self._runtime is not None, "the executor is used before start() or after stop()"
        return self._runtime

    def start(self) -> ExecutorFacts:
        """Load weights, size and allocate KV, compile programs. Raise CapacityError, ModelError."""
        context = self._context
        kv: KVConstraints = context.hooks.quire_kv_constraints(model=context.spec)
        plan = plan_memory(context.config, context.spec, context.caps, kv, context.device.memory_info().free_bytes)
        self._check_room(plan)
        with torch.inference_mode():
            self._runtime = self._build(plan)
            if self._ahead and not context.config.enforce_eager:
                self.runtime.programs.build_all(self.runtime.functions)
        return executor_facts(context, plan)

    def submit(self, plan: StepPlan) -> PendingStep:
        """Begin a step."""
        runtime = self.runtime
        with torch.inference_mode():
            runtime.rows.apply(plan)
            for new in plan.new_rows:
                runtime.seat(tables.seat_vector(runtime.rows, new.row))
            for batch in tables.new_blocks(plan):
                runtime.append_blocks(batch)
            for batch in tables.copies(plan):
                runtime.copy_blocks(batch)
            sampled, extras = self._compute(plan)
        if sampled is None:
            return PendingStep(plan, None, None, extras)
        count = int(plan.samples.sum())
        return PendingStep(plan, ArrayRead(sampled.token_ids, count), ArrayRead(sampled.finite, count), extras)

    def collect(self, ticket: PendingStep) -> StepResult:
        """Wait for that step and read what it chose."""
        token_ids, errors = read_tokens(ticket)
        step, extras = ticket.plan.step, ticket.extras
        return StepResult(step, token_ids, extras.sampled_logprobs(), extras.prompt(), extras.pooled(), errors)

    def read_kv(self, layer: int, block_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as `[block, head, slot, dim]` on the host."""
        index = np.asarray(block_ids)
        key, value = (bridge.to_host(cache)[index] for cache in self.runtime.session.state.caches[layer])
        return key, value

    def memory_report(self) -> Mapping[str, int]:
        """Return bytes on the device by region."""
        session = self.runtime.session
        rows = (session.state.tokens, session.state.blocks, session.state.sampling)
        regions = {"weights": session.arrays, "kv": session.state.caches, "workspace": rows}
        return {tag: sum(array.nbytes for array in jax.tree.leaves(held)) for tag, held in regions.items()}

    def stop(self) -> None:
        """Wait for what runs, then give everything back."""
        if self._runtime is not None:
            self._runtime.session.close()
            self._runtime = None

    @property
    def num_compiled(self) -> int:
        """Return how many programs have been compiled since `start`."""
        return self.runtime.session.num_compiled

    def _compute(self, plan: StepPlan) -> tuple[Sampled | None, Extras]:
        runtime = self.runtime
        if not plan.samples.any() or runtime.rows.special[plan.rows].any():
            return runtime.special.run(plan)
        drawn = runtime.rows.drawn[plan.rows].any()
        sampled, _ = runtime.programs.run(runtime.step.sample if drawn else runtime.step.greedy, plan)
        return sampled, NO_EXTRAS

    def _check_room(self, plan: MemoryPlan) -> None:
        total = self._context.device.memory_info().total_bytes
        if plan.total_bytes > total:
            raise CapacityError(
                f"no room for {plan.total_bytes / 2**30:.2f} GiB on {self._context.device.name}, which has "
                f"{total / 2**30:.2f}: lower num_blocks, max_num_seqs or max_num_batched_tokens"
            )

    def _build(self, plan: MemoryPlan) -> Runtime:
        config, spec = self._context.config, self._context.spec
        host, allocator = HostDevice(), TorchAllocator(torch.device("cpu"))
        weights = WeightList()
        model = build_model(self._context, weights, plan, host.torch_device)
        max_blocks = -(-plan.max_model_len // plan.block_size)
        rows = Rows(host, allocator, config.max_num_seqs, plan.max_model_len, max_blocks)
        session = self._open_session(plan, weights.tensors, rows)
        step = StepFunctions(
            model, session.handles.caches, session.handles, plan.block_size, bind_step(self._context, plan)
        )
        limits = ProgramLimits(
            config.max_num_batched_tokens, config.max_num_seqs, plan.max_model_len, self._context.caps.max_in_flight
        )
        builder = replace(self._builder, session=session)
        programs = Programs(builder, host, allocator, limits, rows.scratch, self._context.caps.shapes)
        hidden = bridge.handle((config.max_num_seqs, spec.hidden_size), getattr(torch, plan.dtype))
        half = HostStep(session, step, rows, hidden, model.logits, spec.vocab_size)
        penalties = self._context.table.bind(KernelRequest("apply_penalties", "float32"))
        special = SpecialStep(host, half, rows, HostPrograms(programs), half, penalties)
        return Runtime(
            session,
            rows,
            step,
            (step.greedy, step.sample, step.hidden),
            programs,
            special,
            session.state_program(tables.seat, tables.seat_vector(rows, rows.scratch).shape),
            session.state_program(tables.append_blocks, (tables.BATCH, 3)),
            session.state_program(tables.copy_blocks, (tables.BATCH, 2)),
        )

    def _open_session(self, plan: MemoryPlan, weights: list[torch.Tensor], rows: Rows) -> Session:
        spec = self._context.spec
        cache_shape = (plan.num_blocks, spec.num_kv_heads, plan.block_size, spec.head_dim)
        handles = tables.make_handles(plan, cache_shape, spec.kv_layers, rows)
        compiled = not self._context.config.enforce_eager
        device: Any = self._context.device
        session: Session = device.open_session(
            weights, handles, exact=plan.dtype == "float32", compiled=compiled, ahead=self._ahead, check=self._check
        )
        session.load(rows.scratch)
        return session


class WeightList:
    """The allocator that a model is built with: it remembers what it gave."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []

    def allocate(self, tag: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised host tensor."""
        self.tensors.append(torch.empty(shape, dtype=dtype))
        return self.tensors[-1]
