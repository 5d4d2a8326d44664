"""What the records' cases do not reach: long rows, mixed types, big vocabularies, extreme numbers."""

from __future__ import annotations

import pytest
import torch

from quire.ops import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("rows", [[(1, 1537)], [(1, 513), (3, 1024)], [(200, 700)]])
@pytest.mark.parametrize("window", [None, 100, 600])
def test_long_rows_are_split_and_merged_right(kernels, attention_input, rows, window):
    given = attention_input(rows)
    expected = reference.paged_attention(*given, window=window)
    assert torch.allclose(kernels.paged_attention(*given, window=window), expected, atol=2e-6)


def test_sinks_count_once_in_a_row_that_is_split(kernels, attention_input):
    given, sinks = attention_input([(1, 1200)]), torch.randn(4) + 3
    expected = reference.paged_attention(*given, sinks=sinks)
    assert torch.allclose(kernels.paged_attention(*given, sinks=sinks), expected, atol=2e-6)


def test_scores_that_overflow_exp_give_the_largest_key(kernels, attention_input):
    given = attention_input([(1, 80)])
    given.key_cache.mul_(1000)
    expected = reference.paged_attention(*given)
    assert torch.allclose(kernels.paged_attention(*given), expected, atol=1e-4)


@pytest.mark.parametrize("head_dim", [8, 40, 72, 120, 256])
@pytest.mark.parametrize("rows", [[(1, 70)], [(40, 70)]])
def test_any_multiple_of_eight_is_a_head_dim(kernels, attention_input, head_dim, rows):
    given = attention_input(rows, head_dim=head_dim)
    assert torch.allclose(kernels.paged_attention(*given), reference.paged_attention(*given), atol=2e-6)


@pytest.mark.parametrize("num_heads", [17, 32])
def test_more_heads_on_one_kv_head_than_are_read_in_place(kernels, attention_input, num_heads):
    given = attention_input([(1, 70), (2, 5)], num_heads=num_heads, num_kv_heads=1)
    assert torch.allclose(kernels.paged_attention(*given), reference.paged_attention(*given), atol=2e-6)


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_tokens", [1, 5, 40])
def test_a_narrow_weight_serves_float32_rows(kernels, num_tokens, weight_dtype):
    x, weight = torch.randn(num_tokens, 130), torch.randn(70, 130).to(weight_dtype)
    assert torch.allclose(kernels.linear(x, weight), x @ weight.float().T, atol=1e-4)


def test_rows_of_x_may_be_apart(kernels):
    x, weight = torch.randn(40, 200)[:, :130], torch.randn(70, 130)
    for rows in (x[:3], x):
        assert torch.allclose(kernels.linear(rows, weight), rows @ weight.T, atol=1e-4)


def test_norm_linear_of_many_tokens_takes_the_steps_one_by_one(kernels):
    x, residual, norm, weight = torch.randn(50, 64), torch.randn(50, 64), torch.rand(64), torch.randn(96, 64)
    expected, total = reference.norm_linear(x, residual, norm, 1e-6, weight, None, "silu_and_mul")
    actual, summed = kernels.norm_linear(x.clone(), residual.clone(), norm, 1e-6, weight, None, "silu_and_mul")
    assert torch.allclose(actual, expected, atol=1e-4)
    assert torch.equal(summed, total)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nan_pass_through_conversions(kernels, dtype):
    values = torch.tensor([float("inf"), -float("inf"), float("nan"), 6e4, -1e-7, 0.0] * 3).to(dtype).view(1, 1, 18)
    for kv_dtype in DTYPES:
        caches = torch.zeros(2, 1, 1, 1, 18, dtype=kv_dtype)
        kernels.kv_write(values, values, caches[0], caches[1], torch.zeros(1, dtype=torch.int64))
        assert torch.equal(caches[0].flatten().nan_to_num(7, 8, 9), values.to(kv_dtype).flatten().nan_to_num(7, 8, 9))


@pytest.mark.parametrize("vocab_size", [1000, 32_771])
def test_draws_are_the_references_for_any_settings(kernels, vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    num_rows = 48

    def pick(*values):
        return torch.tensor(values)[torch.randint(len(values), (num_rows,), generator=generator)]

    arguments = (
        torch.randn(num_rows, vocab_size, generator=generator) * pick(0.5, 2.0, 4.0)[:, None],
        pick(0.0, 0.3, 1.0, 2.0),
        pick(0, 0, 3, 50, 900).int(),
        pick(1.0, 1.0, 0.4, 0.9, 0.999),
        pick(0.0, 0.0, 0.02, 0.2),
        torch.randint(-(2**62), 2**62, (num_rows,), generator=generator),
        torch.randint(2**40, (num_rows,), generator=generator),
    )
    assert torch.equal(kernels.sample(*arguments), reference.sample(*arguments))


def test_a_row_of_nan_gives_some_valid_token(kernels):
    logits = torch.full((2, 50), float("nan"))
    ones, zeros = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    tokens = kernels.sample(logits, torch.tensor([0.0, 1.0]), zeros.int(), ones, ones * 0, zeros, zeros)
    assert ((tokens >= 0) & (tokens < 50)).all()
