"""A result has the same bits however many threads compute it and whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LONG_DECODE = [(1, 1500), (1, 7), (2, 600)]
MIXED = [(1, 700), (37, 90), (5, 5), (64, 1100)]


def with_threads(count, function):
    torch.set_num_threads(count)
    return function()


@pytest.mark.parametrize("rows", [LONG_DECODE, MIXED])
def test_attention_is_the_same_on_any_number_of_threads(kernels, attention_input, rows):
    given = attention_input(rows)
    one, three = (with_threads(n, lambda: kernels.paged_attention(*given)) for n in (1, 3))
    assert torch.equal(one, three)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 7, 33, 65])
@pytest.mark.parametrize("dtype", DTYPES)
def test_own_products_are_the_same_on_any_number_of_threads(kernels, dtype, num_tokens, packed):
    x, weight = torch.randn(num_tokens, 300).to(dtype), torch.randn(517, 300).to(dtype)

    def product():
        out = x.new_empty(num_tokens, 517)
        kernels.run_linear(x, weight, None, out, packed)
        return out

    assert torch.equal(with_threads(1, product), with_threads(3, product))


def test_moe_is_the_same_on_any_number_of_threads(kernels):
    x, shares = torch.randn(9, 64), torch.rand(9, 2)
    experts = torch.randint(4, (9, 2))
    weights = torch.randn(4, 96, 64), torch.randn(4, 64, 48)
    one, three = (with_threads(n, lambda: kernels.moe(x, shares, experts, *weights)) for n in (1, 3))
    assert torch.equal(one, three)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_streamed_row_does_not_depend_on_the_rows_beside_it(kernels, dtype):
    x, weight = torch.randn(13, 300).to(dtype), torch.randn(67, 300).to(dtype)
    together = kernels.linear(x, weight)
    assert torch.equal(together, torch.cat([kernels.linear(row[None], weight) for row in x]))


def test_attention_of_a_row_does_not_depend_on_the_rows_beside_it(kernels, attention_input):
    given = attention_input(MIXED)
    together = kernels.paged_attention(*given)
    for index, (count, seq_len) in enumerate(MIXED):
        start = int(given.batch.query_start[index])
        alone = kernels.paged_attention(*row_alone(given, index, start, count, seq_len))
        assert torch.equal(alone, together[start : start + count])


def row_alone(given, index, start, count, seq_len):
    batch = given.batch._replace(
        query_start=torch.tensor([0, count], dtype=torch.int32),
        seq_lens=torch.tensor([seq_len], dtype=torch.int32),
        block_table=given.batch.block_table[index : index + 1],
    )
    return given._replace(query=given.query[start : start + count], batch=batch)
