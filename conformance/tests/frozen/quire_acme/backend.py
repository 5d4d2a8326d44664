"""Every hook of plugin API 1.0 but the executor's."""

import torch

from quire.backend.contract import (
    HEAD_MAJOR,
    SLOT_MAJOR,
    BackendCaps,
    ConfigChange,
    ConformanceProfile,
    GraphLevel,
    Kernel,
    KVConstraints,
    MemoryModel,
    ScheduleConstraints,
    ShapeMode,
    WeightTransform,
)
from quire.backend.hookspecs import hookimpl
from quire.errors import ConfigError
from quire_acme.kernels import kv_write, linear, paged_attention, transpose
from quire_acme.runtime import AcmeAllocator, AcmeCommunicator, AcmeDevice, AcmeProgramBuilder

NAME = "acme"
DTYPES = ("float32", "bfloat16")
MAX_ROWS = 64


class AcmeBackend:
    @hookimpl
    def quire_describe(self, selection):
        if selection.options.keys() - {"clock"}:
            raise ConfigError(f"acme has the option clock and no {sorted(selection.options.keys() - {'clock'})}")
        return BackendCaps(
            device_type="cpu",
            dtypes=DTYPES,
            kv_dtypes=DTYPES,
            memory=MemoryModel.UNIFIED,
            shapes=ShapeMode.BUCKETED,
            graphs=GraphLevel.STEP,
            max_in_flight=2,
            features=frozenset(
                {
                    "chunked_prefill",
                    "prefix_cache",
                    "block_copy",
                    "sliding_window",
                    "soft_cap",
                    "sinks",
                    "logprobs",
                    "penalties",
                    "moe",
                    "sleep",
                }
            ),
            deterministic=True,
            schedule=ScheduleConstraints(chunk_multiple=2),
        )

    @hookimpl
    def quire_open_device(self, selection, rank):
        return AcmeDevice(rank)

    @hookimpl
    def quire_kv_constraints(self, model):
        return KVConstraints(
            block_sizes=(16, 32), layouts=(SLOT_MAJOR, HEAD_MAJOR), dtypes=DTYPES, alignment_bytes=64, reserved_blocks=1
        )

    @hookimpl
    def quire_conformance_profile(self):
        return ConformanceProfile(levels=(0, 1, 2, 3, 4, 5, 7), support="runs emulated", error_ratio={"linear": 6.0})

    @hookimpl
    def quire_create_allocator(self, device):
        return AcmeAllocator()

    @hookimpl
    def quire_register_kernels(self, table):
        table.register(Kernel("paged_attention", NAME, paged_attention, DTYPES, against_attention, graph_safe=False))
        table.register(Kernel("kv_write", NAME, kv_write, DTYPES, graph_safe=False))
        table.register(Kernel("linear", NAME, linear, DTYPES, workspace_bytes=0))

    @hookimpl
    def quire_register_weight_transforms(self, table):
        table.register_transform(WeightTransform("linear", NAME, transpose))

    @hookimpl
    def quire_create_program_builder(self, device):
        return AcmeProgramBuilder()

    @hookimpl
    def quire_create_communicator(self, group, device):
        return AcmeCommunicator() if len(group) == 1 else None

    @hookimpl
    def quire_resolve_config(self, config, caps):
        if config.max_num_seqs <= MAX_ROWS:
            return []
        return [ConfigChange("max_num_seqs", MAX_ROWS, f"the chip has {MAX_ROWS} row registers")]

    @hookimpl
    def quire_validate_request(self, params):
        return ["structured_outputs are not supported"] if params.structured_outputs is not None else []

    @hookimpl
    def quire_collect_env(self):
        return {"torch": torch.__version__, "chip": "ACME 1"}

    @hookimpl
    def quire_collect_metrics(self):
        return {"acme_temperature_celsius": 40.0}


def against_attention(request):
    return [f"no {name}" for name in ("window", "soft_cap", "sinks") if request.attributes.get(name)]
