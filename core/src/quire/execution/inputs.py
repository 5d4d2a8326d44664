"""The inputs of one step: packed into one host buffer, copied once, and read on the device through views.

`StepBuffers` is what step functions take. Its tensors' addresses never change for a bucket, so that a captured graph
can be replayed; without programs they are cut to the step's exact size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from quire.backend.contract import Bucket
from quire.plan import StepPlan


class StepBuffers(NamedTuple):
    """Device inputs of one step. T tokens, R rows, S sampled rows; int32 unless said."""

    positions: torch.Tensor  # [T]
    token_rows: torch.Tensor  # [T], the row of each token; scratch for padding
    rows: torch.Tensor  # [R], scratch for padding
    seq_lens: torch.Tensor  # [R], 0 for padding
    query_start: torch.Tensor  # [R + 1]
    sample_index: torch.Tensor  # [S], the token whose hidden state is sampled from
    sample_rows: torch.Tensor  # [S], where the sampled token is appended; scratch for padding
    sample_positions: torch.Tensor  # [S], the position that the sampled token takes
    max_query_len: int
    max_seq_len: int


class Sizes(NamedTuple):
    """How many tokens, rows and sampled rows the buffers hold."""

    num_tokens: int
    num_rows: int
    num_samples: int
    decode: bool = False  # padding rows keep one token each

    def spans(self) -> list[int]:
        """Return the lengths of the packed fields, in order."""
        tokens, rows, samples, _ = self
        return [tokens, tokens, rows, rows, rows + 1, samples, samples, samples]

    def packed_len(self) -> int:
        return sum(self.spans())


def exact_sizes(plan: StepPlan) -> Sizes:
    """Return the sizes of an unpadded step."""
    return Sizes(plan.num_tokens, len(plan.rows), int(plan.samples.sum()))


def bucket_sizes(bucket: Bucket) -> Sizes:
    """Return the sizes of a padded step: every row may sample."""
    return Sizes(bucket.num_tokens, bucket.num_rows, bucket.num_rows, bucket.decode)


def pack(plan: StepPlan, sizes: Sizes, scratch: int, out: np.ndarray) -> None:
    """Write the plan's inputs, padded to `sizes`, into `out` [packed_len] int32."""
    fields = np.split(out, np.cumsum(sizes.spans())[:-1])
    positions, token_rows, rows, seq_lens, query_start, sample_index, sample_rows, sample_positions = fields
    num_tokens, num_rows = plan.num_tokens, len(plan.rows)
    ends = np.cumsum(plan.counts, dtype=np.int32)
    query_start[0] = 0
    query_start[1 : num_rows + 1] = ends
    _pad_query_start(query_start, num_rows, num_tokens, sizes)
    offsets = np.arange(num_tokens, dtype=np.int32) - np.repeat(ends - plan.counts, plan.counts)
    _fill(positions, np.repeat(plan.starts, plan.counts) + offsets, 0)
    _fill(token_rows, np.repeat(plan.rows, plan.counts), scratch)
    _fill(rows, plan.rows, scratch)
    _fill(seq_lens, plan.starts + plan.counts, 0)
    _fill(sample_index, (ends - 1)[plan.samples], 0)
    _fill(sample_rows, plan.rows[plan.samples], scratch)
    _fill(sample_positions, (plan.starts + plan.counts)[plan.samples], 0)


def views(packed: torch.Tensor, sizes: Sizes, max_query_len: int, max_seq_len: int) -> StepBuffers:
    """Return the fields of a packed device buffer, without copying."""
    fields = packed.split(sizes.spans())
    return StepBuffers._make((*fields, max_query_len, max_seq_len))


def one_row(like: StepBuffers) -> StepBuffers:
    """Return the inputs of a decode step of row 0, to try a step with where no row holds anything yet.

    It computes position 0, which a prompt does anyhow, and puts its token at the very end.
    """
    sizes = Sizes(1, 1, 1, decode=True)
    made = views(like.positions.new_zeros(sizes.packed_len()), sizes, 1, like.max_seq_len)
    made.seq_lens.fill_(1)
    made.query_start[1:] = 1
    made.sample_positions.fill_(like.max_seq_len - 1)
    return made


def _fill(target: np.ndarray, values: np.ndarray, padding: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = padding


def _pad_query_start(query_start: np.ndarray, num_rows: int, num_tokens: int, sizes: Sizes) -> None:
    # In a decode bucket a padding row keeps one (padding) token, so that token i stays row i's.
    padding = np.arange(1, sizes.num_rows - num_rows + 1, dtype=np.int32)
    query_start[num_rows + 1 :] = num_tokens + padding * sizes.decode
