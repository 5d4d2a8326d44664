"""A backend for the tests: the host's memory, the Triton kernels on their interpreter, steps padded to buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.backend.contract import (
    BackendCaps,
    Bucket,
    ConformanceProfile,
    Device,
    Found,
    GraphLevel,
    KernelRegistrar,
    KVConstraints,
    MemoryModel,
    Program,
    ProgramBuilder,
    Selection,
    ShapeMode,
    StepFunction,
)
from quire.backend.hookspecs import hookimpl
from quire.backend.host_device import HostDevice
from quire.models.spec import ModelSpec
from quire_kernels_triton.registry import register_kernels
from quire_kernels_triton.tuning import Target

API = (1, 0)
PLUGIN = "interpreted_backend:InterpretedBackend"


def probe() -> Found:
    return Found(0)


class PaddingBuilder:
    """Runs step functions as they are, on padded inputs."""

    def buckets(self, max_tokens: int, max_rows: int) -> Sequence[Bucket]:
        return (Bucket(1, 1, True), Bucket(4, 4, True), Bucket(16, 4, False), Bucket(64, 4, False))

    def build(self, step_fn: StepFunction, bucket: Bucket, example: Any) -> Program:
        return step_fn


class InterpretedBackend:
    """The hooks."""

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        return BackendCaps(
            device_type="cpu",
            dtypes=("float32",),
            kv_dtypes=("float32",),
            memory=MemoryModel.UNIFIED,
            shapes=ShapeMode.BUCKETED,
            graphs=GraphLevel.NONE,
            max_in_flight=1,
            features=frozenset({"chunked_prefill", "prefix_cache", "block_copy", "logprobs", "penalties"}),
            deterministic=True,
        )

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        return HostDevice()

    @hookimpl
    def quire_kv_constraints(self, model: ModelSpec) -> KVConstraints:
        return KVConstraints(block_sizes=(16,), dtypes=("float32",))

    @hookimpl
    def quire_conformance_profile(self) -> ConformanceProfile:
        return ConformanceProfile()

    @hookimpl
    def quire_register_kernels(self, table: KernelRegistrar) -> None:
        register_kernels(table, target=Target("interpreter", 2))

    @hookimpl
    def quire_create_program_builder(self, device: Device) -> ProgramBuilder:
        return PaddingBuilder()
