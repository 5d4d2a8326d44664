"""Which sizes are captured."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import Bucket
from quire_cuda.graphs import GraphProgramBuilder


@pytest.fixture
def builder(monkeypatch) -> GraphProgramBuilder:
    """A builder that only lists buckets: the pool and the stream need a GPU."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    return GraphProgramBuilder(torch.device("cuda", 0))


@pytest.mark.parametrize(("max_tokens", "max_rows"), [(2048, 256), (8192, 1000), (100, 7), (5, 64), (1, 1)])
def test_every_step_that_may_occur_has_a_bucket(builder, max_tokens, max_rows):
    buckets = builder.buckets(max_tokens, max_rows)
    for rows in {1, 3, max_rows // 2, max_rows} - {0}:
        for tokens in {rows, rows + 1, max_tokens // 3, max_tokens}:
            if rows <= tokens <= max_tokens:
                assert _smallest(buckets, tokens, rows), (tokens, rows)


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
