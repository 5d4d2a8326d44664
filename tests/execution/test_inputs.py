"""The packed inputs of a step: positions, rows and padding."""

import numpy as np
import torch

from quire.backend.contract import Bucket
from quire.execution.inputs import Sizes, bucket_sizes, exact_sizes, pack, views
from quire.plan import StepPlan

SCRATCH = 9


def plan(rows, starts, counts, samples):
    ints = [np.array(values, np.int32) for values in (rows, starts, counts)]
    return StepPlan(1, *ints, samples=np.array(samples, np.bool_))


def packed(step, sizes):
    out = np.full(sizes.packed_len(), -7, np.int32)
    pack(step, sizes, SCRATCH, out)
    return views(torch.from_numpy(out), sizes, 1, 1)


def test_a_mixed_step_is_packed_row_after_row():
    inputs = packed(step := plan([4, 2], [5, 0], [1, 3], [True, False]), exact_sizes(step))
    assert inputs.positions.tolist() == [5, 0, 1, 2]
    assert inputs.token_rows.tolist() == [4, 2, 2, 2]
    assert inputs.query_start.tolist() == [0, 1, 4]
    assert inputs.seq_lens.tolist() == [6, 3]
    assert (inputs.sample_index.tolist(), inputs.sample_rows.tolist()) == ([0], [4])
    assert inputs.sample_positions.tolist() == [6]


def test_padding_of_a_mixed_bucket_owns_no_tokens_and_points_to_scratch():
    inputs = packed(plan([4], [5], [2], [True]), bucket_sizes(Bucket(4, 3, decode=False)))
    assert inputs.token_rows.tolist() == [4, 4, SCRATCH, SCRATCH]
    assert inputs.query_start.tolist() == [0, 2, 2, 2]
    assert inputs.seq_lens.tolist() == [7, 0, 0]
    assert inputs.sample_rows.tolist() == [4, SCRATCH, SCRATCH]


def test_padding_rows_of_a_decode_bucket_keep_one_token_each():
    inputs = packed(plan([4], [5], [1], [True]), bucket_sizes(Bucket(4, 4, decode=True)))
    assert inputs.query_start.tolist() == [0, 1, 2, 3, 4]
    assert inputs.rows.tolist() == [4, SCRATCH, SCRATCH, SCRATCH]


def test_every_packed_word_is_written():
    step = plan([0, 1, 2], [3, 0, 7], [1, 2, 1], [True, True, False])
    for sizes in (exact_sizes(step), Sizes(8, 5, 5), Sizes(5, 5, 5, True)):
        out = np.full(sizes.packed_len(), -7, np.int32)
        pack(step, sizes, SCRATCH, out)
        assert (out != -7).all()
