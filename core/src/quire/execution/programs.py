"""Programs by bucket: a step is padded to the smallest bucket that holds it and run by the program built for that.

Without buckets (an eager backend) a step runs unpadded. Inputs go to the device in one copy: a ring of host buffers,
one more than the steps in flight, so that none is rewritten while its copy may still be under way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from quire.backend.contract import Allocator, Bucket, Device, Program, ProgramBuilder, ShapeMode, StepFunction
from quire.errors import BackendError
from quire.execution.inputs import Sizes, StepBuffers, bucket_sizes, exact_sizes, pack, views
from quire.plan import StepPlan


class ProgramLimits(NamedTuple):
    """The largest step."""

    max_tokens: int
    max_rows: int
    max_model_len: int
    max_in_flight: int


class Programs:
    """Runs step functions on plans, through programs where the backend builds them."""

    def __init__(
        self,
        builder: ProgramBuilder,
        device: Device,
        allocator: Allocator,
        limits: ProgramLimits,
        scratch: int,
        shapes: ShapeMode,
    ) -> None:
        self._builder = builder
        self._device = device
        self._limits = limits
        self._scratch = scratch
        self._shapes = shapes
        self.buckets: Sequence[Bucket] = builder.buckets(limits.max_tokens, limits.max_rows)
        self._built: dict[tuple[Bucket, str], Program] = {}
        length = Sizes(limits.max_tokens, limits.max_rows, limits.max_rows).packed_len()
        self._packed = allocator.allocate("workspace", (length,), torch.int32)
        ring = range(limits.max_in_flight + 1)
        self._host = itertools.cycle([device.host_buffer((length,), torch.int32) for _ in ring])

    def run(self, function: StepFunction, plan: StepPlan) -> tuple[Any, StepBuffers]:
        """Run a step function on a plan; return its outputs and the inputs that it read."""
        bucket = self._bucket_for(plan)
        if bucket is None:
            inputs = self._load(plan, exact_sizes(plan), *_longest(plan))
            return function(inputs), inputs
        inputs = self._load(plan, bucket_sizes(bucket), *self._bounds(bucket))
        return self._program(function, bucket, inputs)(inputs), inputs

    def load_exact(self, plan: StepPlan) -> StepBuffers:
        """Copy a plan's inputs to the device unpadded, running nothing."""
        return self._load(plan, exact_sizes(plan), *_longest(plan))

    def build_all(self, functions: Sequence[StepFunction]) -> None:
        """Build every bucket's program for each function now: where building takes long, no step should wait for it."""
        for bucket in self.buckets:
            sizes = bucket_sizes(bucket)
            inputs = views(self._packed[: sizes.packed_len()], sizes, *self._bounds(bucket))
            for function in functions:
                self._program(function, bucket, inputs)

    def _program(self, function: StepFunction, bucket: Bucket, inputs: StepBuffers) -> Program:
        key = (bucket, function.__name__)
        if key not in self._built:
            self._built[key] = self._builder.build(function, bucket, inputs)
        return self._built[key]

    def _bucket_for(self, plan: StepPlan) -> Bucket | None:
        decode = plan.num_tokens == len(plan.rows)
        for bucket in self.buckets:
            if bucket.num_tokens >= plan.num_tokens and bucket.num_rows >= len(plan.rows) and bucket.decode <= decode:
                return bucket
        if self._shapes is ShapeMode.STATIC:
            raise BackendError(f"no bucket holds {plan.num_tokens} tokens in {len(plan.rows)} rows: {self.buckets}")
        return None

    def _bounds(self, bucket: Bucket) -> tuple[int, int]:
        longest = 1 if bucket.decode else min(bucket.num_tokens, self._limits.max_model_len)
        return longest, self._limits.max_model_len

    def _load(self, plan: StepPlan, sizes: Sizes, max_query_len: int, max_seq_len: int) -> StepBuffers:
        length = sizes.packed_len()
        host, packed = next(self._host)[:length], self._packed[:length]
        pack(plan, sizes, self._scratch, host.numpy())
        self._device.to_device(host, packed)
        return views(packed, sizes, max_query_len, max_seq_len)


def _longest(plan: StepPlan) -> tuple[int, int]:
    return int(plan.counts.max()), int((plan.starts + plan.counts).max())
