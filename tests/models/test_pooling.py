"""Embeddings from hidden states."""

import torch

from quire.models.pooling import pool

HIDDEN = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [0.0, 4.0], [6.0, 0.0]])
QUERY_START = torch.tensor([0, 2, 5], dtype=torch.int32)


def test_last_takes_each_rows_last_token():
    assert pool(HIDDEN, QUERY_START, "last", normalize=False).tolist() == [[3.0, 4.0], [6.0, 0.0]]


def test_mean_averages_each_rows_tokens():
    assert pool(HIDDEN, QUERY_START, "mean", normalize=False).tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_embeddings_are_unit_vectors():
    torch.testing.assert_close(pool(HIDDEN, QUERY_START, "last"), torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


def test_padding_after_the_last_row_does_not_count():
    padded = torch.cat([HIDDEN, torch.full((2, 2), float("nan"))])
    assert pool(padded, QUERY_START, "mean", normalize=False).tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_half_precision_is_averaged_in_float32():
    hidden = torch.full((3000, 1), 1.0, dtype=torch.bfloat16)
    assert pool(hidden, torch.tensor([0, 3000]), "mean", normalize=False).tolist() == [[1.0]]
