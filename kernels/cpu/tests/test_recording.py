"""Steps that are recorded compute what they computed, from what their inputs hold now."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import Bucket
from quire_kernels_cpu.recording import DECODE_ROWS, RecordedProgram, RecordingBuilder

BUCKET = Bucket(2, 2, decode=True)


@pytest.fixture(autouse=True)
def inference():
    """Steps run so."""
    with torch.inference_mode():
        yield


@pytest.fixture
def builder(kernels):
    return RecordingBuilder(kernels.library)


def two_products(kernels):
    """Two kernels with operations of torch between and after them: functional, in place, a view."""
    first, second, table = torch.randn(8, 6), torch.randn(4, 8), torch.zeros(3, 4)

    def step(inputs):
        hidden = kernels.linear(inputs, first)
        hidden = hidden.tanh().flatten(0).view(2, 8)
        hidden.add_(1)
        out = kernels.linear(hidden, second)
        table[out.argmax(-1).clamp(max=2)] = out
        return out, out.sum()

    return step, table


def test_a_program_follows_its_inputs(kernels, builder):
    step, _ = two_products(kernels)
    inputs = torch.randn(2, 6)
    program = builder.build(step, BUCKET, inputs)
    assert isinstance(program, RecordedProgram)
    for _ in range(3):
        inputs.copy_(torch.randn(2, 6))
        expected, found = [tensor.clone() for tensor in step(inputs)], program(inputs)
        assert all(map(torch.equal, found, expected))


def test_what_a_step_writes_elsewhere_is_written_again(kernels, builder):
    step, table = two_products(kernels)
    inputs = torch.randn(2, 6)
    program = builder.build(step, BUCKET, inputs)
    step(inputs)
    expected = table.clone()
    table.zero_()
    program(inputs)
    assert torch.equal(table, expected)


@pytest.mark.parametrize("read", [torch.Tensor.tolist, torch.Tensor.numpy, lambda x: x[0, 0].item(), torch.nonzero])
def test_a_step_that_reads_a_value_runs_as_it_is(kernels, builder, read):
    def step(inputs):
        return kernels.linear(inputs, torch.ones(4, 6)), read(inputs)

    assert builder.build(step, BUCKET, torch.ones(2, 6)) is step


def test_recording_ends_when_the_step_raises(kernels, builder):
    def step(inputs):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        builder.build(step, BUCKET, None)
    assert not kernels.library.listeners


def test_buckets_rise_and_hold_no_more_than_a_step_may(builder):
    assert [bucket.num_rows for bucket in builder.buckets(64, 8)] == list(DECODE_ROWS)
    assert [bucket.num_rows for bucket in builder.buckets(64, 3)] == [1, 2]
    assert all(bucket.decode for bucket in builder.buckets(64, 8))
