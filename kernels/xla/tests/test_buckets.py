"""Which sizes there are, and that what does not fit is changed with its reason. No XLA is needed."""

from __future__ import annotations

import importlib.util

import pytest

from quire.backend.contract import Bucket
from quire.config import EngineConfig
from quire.errors import BackendError, ConfigError
from quire_kernels_xla.buckets import BucketSizes, StaticProgramBuilder
from quire_kernels_xla.limits import keep_within
from quire_kernels_xla.options import Options, parse_options

SIZES = BucketSizes(rows=(8, 16), tokens=(16, 64, 256))
ALONE = BucketSizes(rows=(8, 16), tokens=(16, 64, 256), prompt_rows=1)


def test_buckets_rise_to_the_engines_size():
    assert SIZES.buckets(100, 12) == [
        Bucket(8, 8, True),
        Bucket(12, 12, True),
        Bucket(16, 12, False),
        Bucket(64, 12, False),
        Bucket(100, 12, False),
    ]


def test_prompts_that_run_alone_have_one_row():
    buckets = ALONE.buckets(64, 8)
    assert buckets == [Bucket(8, 8, True), Bucket(16, 1, False), Bucket(64, 1, False)]


def test_a_step_has_no_more_rows_than_tokens():
    assert SIZES.buckets(1, 8) == [Bucket(1, 1, True), Bucket(1, 1, False)]


def test_constraints_tell_the_scheduler_the_same():
    schedule = ALONE.constraints()
    assert not schedule.mix_prefill_decode
    assert schedule.max_prefill_requests == 1
    assert (schedule.row_buckets, schedule.token_buckets) == (ALONE.rows, ALONE.tokens)
    assert SIZES.constraints().mix_prefill_decode


def test_settings_beyond_the_largest_bucket_are_lowered_with_a_reason():
    changes = keep_within(EngineConfig("m", max_num_seqs=17, max_num_batched_tokens=256), SIZES)
    assert [(change.field, change.value) for change in changes] == [("max_num_seqs", 16)]
    assert "at most 16" in changes[0].reason


def test_nothing_is_built_without_an_executor():
    with pytest.raises(BackendError, match="executor"):
        StaticProgramBuilder(SIZES).build(lambda buffers: buffers, Bucket(8, 8, True), None)


def test_options_have_defaults():
    assert parse_options("chip", {}) == Options("chip", ahead=True)
    assert parse_options("chip", {"device": "cpu", "compile": "lazily"}) == Options("cpu", ahead=False)


@pytest.mark.parametrize("here, runtime", [("torch_xla", "torch_xla"), ("torchax", "jax"), ("neither", "jax")])
def test_the_runtime_is_the_first_that_is_installed(monkeypatch, here, runtime):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == here else None)
    assert parse_options("chip", {}, ("torch_xla", "jax")).runtime == runtime
    assert parse_options("chip", {}).runtime == "jax"


@pytest.mark.parametrize(
    "given", [{"devise": "cpu"}, {"device": "gpu"}, {"compile": "never"}, {"runtime": "torch_xla"}]
)
def test_options_that_do_not_exist_are_refused(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        parse_options("chip", given)
