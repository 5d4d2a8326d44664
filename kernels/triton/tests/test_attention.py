"""What the records' cases do not reach: keys split over programs, and what a launch leaves behind."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

from quire.ops import reference
from quire.ops.cases.attention import AttentionShape, Row, attention_case
from quire.ops.cases.source import Source
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.tuning import DECODE_KINDS, Target

LENGTHS = (Row(1, 1), Row(1, 61), Row(1, 149), Row(1, 0), Row(0, 30), Row(1, 160))


@pytest.fixture
def case():
    return attention_case("", AttentionShape(LENGTHS, 4, 2, 16), "float32", Source("float32", 1))


def split_over(programs, **changes):
    attend = PagedAttention(Target("interpreter", 1))
    settings = attend._settings.decode[16]._replace(programs_per_processor=programs, **changes)
    attend._settings = attend._settings._replace(**dict.fromkeys(DECODE_KINDS, {16: settings}))
    return attend


@pytest.mark.parametrize("programs", [1, 24, 100, 1000])
def test_however_many_programs_share_a_row_the_result_is_the_same(case, programs):
    out = split_over(programs, min_chunk=16)(**case.inputs)
    expected = reference.paged_attention(**case.inputs)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{"window": 37}, {"window": 1}, {"soft_cap": 3.0}, {"sinks": torch.ones(4)}])
def test_a_split_row_keeps_window_cap_and_sinks(case, changes):
    inputs = {**case.inputs, **changes}
    out = split_over(100, min_chunk=16)(**inputs)
    torch.testing.assert_close(out, reference.paged_attention(**inputs), rtol=1e-5, atol=1e-6)


def test_counters_are_zero_again_after_every_launch(case):
    attend = split_over(100, min_chunk=16)
    first = attend(**case.inputs)
    (counters,) = attend._counters._buffers[torch.device("cpu")]
    assert not counters.any()
    assert torch.equal(attend(**case.inputs), first)


def test_a_row_without_keys_comes_out_as_zeros(case):
    attend = split_over(100, min_chunk=16)
    assert not attend(**case.inputs)[3].any()


def test_a_bound_on_lengths_far_above_them_changes_nothing(case):
    """A captured launch is made for the longest context that there may ever be."""
    batch = case.inputs["batch"]._replace(max_seq_len=1 << 20)
    out = split_over(24, min_chunk=16)(**{**case.inputs, "batch": batch})
    torch.testing.assert_close(out, reference.paged_attention(**case.inputs), rtol=1e-5, atol=1e-6)


def test_block_ids_past_a_rows_length_are_never_read():
    source = Source("float32", 5)
    case = attention_case("", AttentionShape((Row(3, 20), Row(1, 33)), 2, 1, 16), "float32", source)
    case.inputs["batch"].block_table[0, 2:] = -1
    out = PagedAttention(Target("interpreter", 1))(**case.inputs)
    assert out.isfinite().all()


def test_rows_for_half_of_the_processors_at_most_may_be_split_finer():
    attend = PagedAttention(Target("interpreter", 8))
    settings = attend._settings.decode[16]._replace(programs_per_processor=2, programs_for_few=6, min_chunk=16, tile=16)
    assert [attend._num_splits(settings, pairs, 4096) for pairs in (1, 4, 5, 16)] == [48, 12, 4, 1]
    same = settings._replace(programs_for_few=0)
    assert [attend._num_splits(same, pairs, 4096) for pairs in (1, 4, 5, 16)] == [16, 4, 4, 1]


def test_the_more_rows_there_are_for_each_processor_the_sooner_come_the_settings_for_many():
    attend, options = PagedAttention(Target("sm_90", 132)), {"DIMS": 128, "COMPUTE": tl.bfloat16}
    kinds = [getattr(attend._settings, kind)[128] for kind in DECODE_KINDS]
    assert len(set(kinds)) == 4
    chosen = [attend._split(options, pairs, 4096)[0] for pairs in (2048, 1024, 512, 64)]
    assert chosen == kinds
