"""Logprobs against log_softmax."""

import pytest
import torch

from quire.ops.logprobs import top_logprobs


@pytest.mark.parametrize("k", [0, 1, 5, 97, 200, -1])
def test_they_equal_log_softmax(source, k):
    logits, chosen = source.normal(7, 97, scale=5.0), source.integers(97, 7)
    token_ids, logprobs, _ = top_logprobs(logits, chosen, k)
    expected = logits.double().log_softmax(-1)
    count = 97 if k < 0 else min(k, 97)
    assert token_ids.shape == logprobs.shape == (7, 1 + count)
    assert torch.equal(token_ids[:, 0], chosen)
    assert torch.equal(token_ids[:, 1:], logits.argsort(-1, descending=True)[:, :count])
    torch.testing.assert_close(logprobs, expected.gather(1, token_ids).float())


def test_ranks_count_from_one_and_equals_share_the_better():
    logits = torch.tensor([[1.0, 5.0, 3.0, 3.0]]).expand(4, -1)
    assert top_logprobs(logits, torch.arange(4), 1).ranks.tolist() == [4, 1, 2, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_summed_in_float32(source, dtype):
    logits = source.normal(3, 4099, dtype=dtype)
    _, logprobs, _ = top_logprobs(logits, torch.tensor([0, 1, 2]), 3)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs[:, 0], logits.float().log_softmax(-1).diagonal()[:3])


def test_forbidden_tokens_have_logprob_minus_infinity():
    logits = torch.tensor([[0.0, float("-inf"), 0.0]])
    token_ids, logprobs, ranks = top_logprobs(logits, torch.tensor([1]), -1)
    assert logprobs[0, 0] == float("-inf")
    assert ranks.tolist() == [3]
    assert token_ids[0, 1:].tolist() == [0, 2, 1]
