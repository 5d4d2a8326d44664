"""The null backend through its hooks: what it claims, what it refuses, how long it takes."""

import time

import pytest

from quire.backend import null, null_manifest
from quire.backend.contract import API_VERSION, Executor, Found, Selection
from quire.backend.null import NullExecutor
from quire.backend.null_options import NullOptions, parse_options
from quire.config import EngineConfig
from quire.errors import BackendError, CapacityError, ConfigError
from quire.sampling import SamplingParams


def test_it_is_found_everywhere_and_never_chosen_freely():
    found = null_manifest.probe()
    assert isinstance(found, Found)
    assert found.score == 0
    assert null_manifest.API == API_VERSION


def test_options_become_the_devices_limits():
    options = {"mix_prefill_decode": "false", "token_buckets": "256,64", "max_in_flight": "4"}
    caps = null.PLUGIN.quire_describe(Selection("null", options=options))
    assert caps.max_in_flight == 4
    assert caps.schedule.token_buckets == (64, 256)
    assert not caps.schedule.mix_prefill_decode


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": "1"}, "has no option"),
        ({"step_us": "fast"}, "cannot be read"),
        ({"step_us": "-1"}, "at least 0"),
        ({"max_in_flight": "0"}, "at least 1"),
        ({"verify": "some"}, "light or full"),
        ({"mix_prefill_decode": "perhaps"}, "cannot be read"),
        ({"row_buckets": "1;2"}, "cannot be read"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        parse_options(options)


@pytest.mark.parametrize("asked", [{"logprobs": 1}, {"presence_penalty": 0.5}, {"structured_outputs": {"regex": "a"}}])
def test_what_needs_logits_is_refused(asked):
    (reason,) = null.PLUGIN.quire_validate_request(SamplingParams(**asked))
    assert reason.startswith(next(iter(asked)))


def test_a_plain_request_is_not_refused():
    assert null.PLUGIN.quire_validate_request(SamplingParams(temperature=0.7, top_p=0.9, stop="x")) == []


def executor(spec, options=None, **settings):
    return NullExecutor(EngineConfig(model="none", **settings), spec, options or NullOptions())


def test_it_is_an_executor(spec):
    assert isinstance(executor(spec), Executor)


def test_memory_decides_the_number_of_blocks(spec):
    block_bytes = 16 * spec.kv_bytes_per_token(2)
    facts = executor(spec, memory_bytes=100 * block_bytes + 1).start()
    assert (facts.num_blocks, facts.block_size) == (100, 16)


def test_no_more_blocks_are_made_than_all_rows_can_use(spec):
    assert executor(spec, max_num_seqs=2, max_model_len=40).start().num_blocks == 2 * 3


def test_memory_without_a_block_is_an_error(spec):
    with pytest.raises(CapacityError, match="10 bytes hold no KV block"):
        executor(spec, memory_bytes=10)


def test_without_overlap_one_step_is_under_way(spec):
    assert executor(spec, overlap=False).start().max_in_flight == 1


def test_it_has_no_bytes_to_read(spec):
    with pytest.raises(BackendError, match="no bytes"):
        executor(spec).read_kv(0, [0])


def test_steps_take_the_time_that_the_latency_model_says(simulate):
    sim = simulate()
    sim.executor.options = NullOptions(step_us=20_000, token_us=1_000)
    sim.add(10, max_tokens=2)
    began = time.perf_counter()
    sim.run()
    assert time.perf_counter() - began >= 2 * 0.020 + 11 * 0.001


def test_steps_under_way_wait_for_each_other(simulate):
    sim = simulate(depth=2)
    sim.executor.options = NullOptions(step_us=10_000)
    sim.add(10, max_tokens=2)
    began = time.perf_counter()
    sim.schedule(), sim.schedule()
    submitted = time.perf_counter() - began
    sim.run()
    assert submitted < 0.010 < 0.020 <= time.perf_counter() - began
