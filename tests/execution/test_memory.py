"""How memory is divided."""

import dataclasses

import pytest

from quire.backend.contract import BackendCaps, GraphLevel, KVConstraints, MemoryModel, ShapeMode
from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.execution.memory import plan_memory
from quire.models.spec import ModelSpec

SPEC = ModelSpec("Test", 2, 64, 128, 4, 2, 16, 100, 512, "bfloat16", 100_000, (None, None))
CAPS = BackendCaps(
    "cpu",
    ("float32", "bfloat16"),
    ("float32",),
    MemoryModel.DISCRETE,
    ShapeMode.DYNAMIC,
    GraphLevel.NONE,
    1,
    frozenset(),
    True,
)
KV = KVConstraints((16, 32), dtypes=("float32", "bfloat16"), reserved_blocks=1)
MIB = 2**20


def plan(config=None, caps=CAPS, memory=64 * MIB):
    return plan_memory(config or EngineConfig("m", max_num_batched_tokens=64, max_num_seqs=4), SPEC, caps, KV, memory)


def test_what_is_left_after_weights_and_workspace_is_kv():
    divided = plan()
    left = divided.budget_bytes - divided.total_bytes
    assert 0 <= left < divided.block_bytes


def test_a_block_holds_keys_and_values_of_every_layer():
    assert plan().block_bytes == 2 * 2 * 16 * 2 * 16 * 2


def test_host_memory_is_taken_only_as_far_as_rows_could_fill():
    unified = dataclasses.replace(CAPS, memory=MemoryModel.UNIFIED)
    assert plan(caps=unified).num_blocks == 4 * 512 // 16 + 1


def test_a_context_that_does_not_fit_is_refused_with_what_would():
    with pytest.raises(CapacityError, match=r"one request of 512 tokens does not fit: .* Lower max_model_len to \d+"):
        plan(memory=int(0.4 * MIB))


def test_where_not_even_the_weights_fit_all_that_is_missing_is_told():
    divided = plan(memory=64 * MIB)
    wanted = divided.total_bytes - divided.kv_bytes + (512 // 16 + 1) * divided.block_bytes
    missing = (wanted - int(0.9 * 0.1 * MIB)) / MIB
    with pytest.raises(CapacityError, match=rf"{missing:.1f} MiB are missing .*\. Lower max_num_batched_tokens \(64\)"):
        plan(memory=int(0.1 * MIB))


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"dtype": "float16"}, "dtype 'float16' is not supported here; supported: float32, bfloat16"),
        ({"block_size": 17}, "block_size 17 is not supported here; supported: 16, 32"),
        ({"max_model_len": 513}, "max_model_len 513 is more than the model's 512"),
    ],
)
def test_what_the_backend_or_model_lacks_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        plan(EngineConfig("m", **setting))


def test_exact_memory_overrides_the_share():
    exact = plan(EngineConfig("m", memory_bytes=40 * MIB, max_num_batched_tokens=64, max_num_seqs=4))
    assert exact.budget_bytes == 40 * MIB
