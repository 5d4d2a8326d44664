"""Which sizes are captured, and what a captured step does: it follows its inputs, and gives what the step gives."""

from __future__ import annotations

import logging

import pytest
import torch

from quire.backend.accelerator.graphs import GraphProgramBuilder
from quire.backend.contract import Bucket
from quire.errors import CapacityError
from quire.execution.inputs import Sizes, views

BUCKET = Bucket(4, 4, True)


@pytest.fixture
def builder(stand_in) -> GraphProgramBuilder:
    return GraphProgramBuilder(torch.device("cpu"), stand_in.GRAPHS)


class Step:
    """A step function that counts its calls: sums, in a buffer that it keeps, and an output that follows the input."""

    def __init__(self) -> None:
        self.calls = 0
        self.total = torch.zeros(3)

    def __call__(self, buffers):
        self.calls += 1
        self.total += buffers[0]
        return {"doubled": buffers[0] * 2, "total": self.total.view(1, 3) + 0}


def test_a_captured_step_gives_at_every_call_what_the_step_gives(builder):
    step, plain, inputs = Step(), Step(), torch.empty(3)
    program = builder.build(step, BUCKET, None)
    for value in range(6):
        inputs.fill_(value)
        outputs, expected = program((inputs,)), plain((inputs,))
        assert all(torch.equal(outputs[name], expected[name]) for name in expected)


def test_the_first_call_runs_the_second_captures_and_no_later_one_calls_the_step(builder):
    step, inputs = Step(), torch.ones(3)
    program = builder.build(step, BUCKET, None)
    counts = [program((inputs,)) is not None and step.calls for _ in range(5)]
    assert counts == [1, 2, 2, 2, 2]


def test_inputs_that_move_before_the_capture_put_it_off(builder):
    step = Step()
    program = builder.build(step, BUCKET, None)
    kept = [torch.ones(3) for _ in range(4)]
    for inputs in kept:
        program((inputs,))
    assert step.calls == 4


def test_inputs_that_move_after_the_capture_are_refused(builder):
    program, inputs = builder.build(Step(), BUCKET, None), torch.ones(3)
    program((inputs,))
    program((inputs,))
    with pytest.raises(AssertionError, match="the inputs of .* have moved since it was captured"):
        program((torch.ones(3),))


def test_a_step_that_reads_on_the_host_runs_as_it_is_and_that_is_said_once(builder, caplog):
    programs = [builder.build(lambda buffers: buffers[0] * float(buffers[0].sum()), BUCKET, None) for _ in range(2)]
    inputs = torch.ones(3)
    with caplog.at_level(logging.WARNING):
        for value in range(1, 5):
            inputs.fill_(value)
            assert all(torch.equal(program((inputs,)), inputs * inputs.sum()) for program in programs)
    assert [record.message for record in caplog.records] == [
        "steps run without graphs, as with enforce_eager=True: capturing one failed: operation not permitted when "
        "stream is capturing"
    ]


def test_a_full_device_is_refused_with_what_to_lower(builder):
    def fail(buffers):
        raise torch.OutOfMemoryError("2 GiB are not there")

    program = builder.build(fail, BUCKET, None)
    with pytest.raises(CapacityError, match=r"no memory left for a step of .*2 GiB are not there; lower memory_util"):
        program((torch.ones(3),))


@pytest.mark.parametrize(("max_tokens", "max_rows"), [(2048, 256), (8192, 1000), (100, 7), (5, 64), (1, 1)])
def test_every_step_that_may_occur_has_a_bucket(builder, max_tokens, max_rows):
    buckets = builder.buckets(max_tokens, max_rows)
    for rows in {1, 3, max_rows // 2, max_rows} - {0}:
        for tokens in {rows, rows + 1, max_tokens // 3, max_tokens}:
            if rows <= tokens <= max_tokens:
                assert _smallest(buckets, tokens, rows), (tokens, rows)


def test_what_a_first_step_and_a_decode_need_is_made_ready_once(stand_in):
    given = []

    def prepare(calls):
        given.append([call() for call in calls])

    builder = GraphProgramBuilder(torch.device("cpu"), stand_in.GRAPHS, prepare)
    sizes = Sizes(5, 2, 2)
    inputs = views(torch.full((sizes.packed_len(),), 7, dtype=torch.int32), sizes, 5, 100)
    for _ in range(2):
        builder.build(lambda step: step, Bucket(5, 2, False), inputs)
    ((whole, single),) = given
    assert whole is inputs
    assert (single.seq_lens.tolist(), single.query_start.tolist(), single.max_query_len) == ([1], [0, 1], 1)
    assert (single.sample_rows.tolist(), single.sample_positions.tolist()) == ([0], [99])
    assert inputs.positions.tolist() == [7] * 5


def test_buckets_stay_within_the_largest_step(builder):
    for max_tokens, max_rows in ((2048, 256), (100, 7), (5, 64)):
        for bucket in builder.buckets(max_tokens, max_rows):
            assert bucket.num_tokens <= max_tokens
            assert bucket.num_rows <= min(max_rows, bucket.num_tokens)


def test_decode_steps_are_padded_by_little(builder):
    buckets = builder.buckets(2048, 512)
    for rows in range(1, 513):
        bucket = _smallest(buckets, rows, rows)
        assert bucket.decode
        assert bucket.num_rows <= max(rows * 1.25, rows + 7)


def test_one_prompt_is_not_padded_to_all_rows(builder):
    assert _smallest(builder.buckets(2048, 256), 1000, 1, decode=False) == Bucket(1024, 8, False)


def _smallest(buckets, tokens, rows, decode=None):
    """Choose as the executor does."""
    decode = tokens == rows if decode is None else decode
    fitting = (b for b in buckets if b.num_tokens >= tokens and b.num_rows >= rows and b.decode <= decode)
    return next(fitting, None)
