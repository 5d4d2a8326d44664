"""What an executor holds while it runs, and the order in which it is made: weights, then workspace, then KV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quire.backend.contract import (
    Allocator,
    ExecutorContext,
    ExecutorFacts,
    KernelRequest,
    KVConstraints,
)
from quire.execution import kv_cache
from quire.execution.footprint import plan_footprint
from quire.execution.kv_cache import Cache, KVShape
from quire.execution.memory import MemoryPlan, choose_formats, plan_memory
from quire.execution.outline import outlined
from quire.execution.programs import ProgramLimits, Programs
from quire.execution.rows import Rows
from quire.execution.special import SpecialStep
from quire.execution.step import StepFunctions, StepKernels
from quire.models.context import DecoderModel, ModelContext

if TYPE_CHECKING:
    from quire.backend.manager import OpenBackend


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything of a started executor."""

    facts: ExecutorFacts
    plan: MemoryPlan
    allocator: Allocator
    model: DecoderModel
    caches: list[Cache]
    rows: Rows
    programs: Programs
    step: StepFunctions
    special: SpecialStep
    block_copy: Callable[..., Any]


def build_runtime(context: ExecutorContext, backend: OpenBackend) -> Runtime:
    """Make everything. Raise CapacityError, ModelError."""
    kv = backend.kv_constraints(context.spec)
    plan = _plan(context, kv)
    allocator = backend.create_allocator(context.device)
    model = build_model(context, allocator, plan, context.device.torch_device)
    caches = _allocate_kv(context, allocator, kv, plan)
    rows = _make_rows(context, allocator, plan)
    programs = _make_programs(context, backend, allocator, rows, plan)
    table = context.table
    kernels, draw_raw = bind_step(context, plan), _bind_draw_raw(context, model)
    step = StepFunctions(model, caches, rows, plan.block_size, kernels, draw_raw)
    penalties = table.bind(KernelRequest("apply_penalties", "float32"))
    special = SpecialStep(context.device, model, rows, programs, step, penalties)
    block_copy = table.bind(KernelRequest("block_copy", plan.kv_dtype))
    facts = executor_facts(context, plan)
    return Runtime(facts, plan, allocator, model, caches, rows, programs, step, special, block_copy)


def _plan(context: ExecutorContext, kv: KVConstraints) -> MemoryPlan:
    config, spec, caps = context.config, context.spec, context.caps
    footprint = plan_footprint(config, spec, outlined(context.table), choose_formats(config, spec, caps, kv))
    return plan_memory(config, spec, caps, kv, context.device.memory_info().free_bytes, footprint)


def bind_step(context: ExecutorContext, plan: MemoryPlan) -> StepKernels:
    """Return the kernels with which a step begins and ends."""
    spec, bind = context.spec, context.table.bind
    return StepKernels(
        bind(KernelRequest("gather_step", "float32", {"block_size": plan.block_size})),
        bind(KernelRequest("select_rows", plan.dtype, {"hidden_size": spec.hidden_size})),
        bind(KernelRequest("draw_tokens", "float32", {"vocab_size": spec.vocab_size})),
    )


def _bind_draw_raw(context: ExecutorContext, model: DecoderModel) -> Callable[..., Any] | None:
    """Return the kernel that draws from logits in the dtype in which the model gives them, if a backend has one."""
    dtype = str(model.logits_dtype).removeprefix("torch.")
    request = KernelRequest("draw_tokens", dtype, {"vocab_size": context.spec.vocab_size})
    return context.table.bind(request) if context.table.serves(request) else None


def build_model(context: ExecutorContext, allocator: Allocator, plan: MemoryPlan, device: torch.device) -> DecoderModel:
    """Return the model with its weights, allocated on `device`. Raise ModelError, KernelError, CapacityError."""
    from quire.models import loader, registry

    config = context.config

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return allocator.allocate("weights", shape, dtype)

    model_context = ModelContext(
        context.table,
        getattr(torch, plan.dtype),
        device,
        allocate,
        max_model_len=plan.max_model_len,
        kv_dtype=getattr(torch, plan.kv_dtype),
        block_size=plan.block_size,
    )
    path = Path(loader.resolve_path(config.model, config.revision))
    model = registry.build(path, context.spec, model_context, config.trust_remote_code)
    if config.load_format == "dummy":
        loader.fill_dummy(model, config.seed)
    else:
        with loader.show_progress() as progress:
            loader.load_weights(model, path, progress)
    return model


def _allocate_kv(context: ExecutorContext, allocator: Allocator, kv: KVConstraints, plan: MemoryPlan) -> list[Cache]:
    spec = context.spec
    shape = KVShape(plan.num_blocks, spec.num_kv_heads, plan.block_size, spec.head_dim)
    return kv_cache.allocate(allocator, shape, spec.kv_layers, kv.layouts[0], getattr(torch, plan.kv_dtype))


def _make_rows(context: ExecutorContext, allocator: Allocator, plan: MemoryPlan) -> Rows:
    max_blocks = -(-plan.max_model_len // plan.block_size)
    return Rows(context.device, allocator, context.config.max_num_seqs, plan.max_model_len, max_blocks)


def _make_programs(
    context: ExecutorContext, backend: OpenBackend, allocator: Allocator, rows: Rows, plan: MemoryPlan
) -> Programs:
    from quire.backend.defaults import create_program_builder

    config, device = context.config, context.device
    builder = create_program_builder() if config.enforce_eager else backend.create_program_builder(device)
    limits = ProgramLimits(
        config.max_num_batched_tokens, config.max_num_seqs, plan.max_model_len, context.caps.max_in_flight
    )
    return Programs(builder, device, allocator, limits, rows.scratch, context.caps.shapes)


def executor_facts(context: ExecutorContext, plan: MemoryPlan) -> ExecutorFacts:
    """Return what the scheduler must know of an executor that follows this plan."""
    config, caps = context.config, context.caps
    return ExecutorFacts(
        plan.num_blocks,
        plan.block_size,
        plan.reserved_blocks,
        config.max_num_seqs,
        plan.max_model_len,
        caps.schedule,
        caps.max_in_flight if config.overlap else 1,
    )
