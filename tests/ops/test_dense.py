"""Norms, rotary embedding, activations, products and mixtures against transformers and torch.nn.functional."""

import math

import pytest
import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from quire.ops import reference
from quire.ops.cases.norms import rotary_table


@pytest.mark.parametrize("shape", [(1, 1), (7, 80), (33, 97), (5, 3, 64)])
def test_rms_norm_is_transformers_in_float32(source, shape):
    x, norm = source.normal(*shape), LlamaRMSNorm(shape[-1], eps=1e-5)
    norm.weight.data = source.normal(shape[-1])
    torch.testing.assert_close(reference.rms_norm(x, norm.weight, 1e-5), norm(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_rounds_once_and_keeps_the_inputs_dtype_under_a_float32_weight(source, dtype):
    x, weight = source.normal(7, 80, dtype=dtype), source.normal(80)
    exact = functional.rms_norm(x.double(), (80,), weight.double(), 1e-5)
    normed = reference.rms_norm(x, weight, 1e-5)
    assert normed.dtype == dtype
    assert torch.equal(normed, exact.to(dtype))


def test_add_rms_norm_norms_the_rounded_sum(source):
    x, residual = (source.normal(5, 97, dtype=torch.bfloat16) for _ in range(2))
    weight = source.normal(97)
    normed, total = reference.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, reference.rms_norm(total, weight, 1e-5))


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(1, 1, 16), (7, 1, 80), (8, 2, 128)])
def test_rope_is_transformers(source, num_heads, num_kv_heads, head_dim):
    query, key = source.normal(11, num_heads, head_dim), source.normal(11, num_kv_heads, head_dim)
    positions, table = source.integers(300, 11), rotary_table(300, head_dim)
    cos, sin = (half.repeat(1, 2)[positions] for half in table.chunk(2, dim=-1))
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    for actual, wanted in zip(reference.rope(query, key, positions, table), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_rope_rotates_pairs_by_the_angle_of_their_rate():
    table, x = rotary_table(100, 4), torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    rotated, _ = reference.rope(x, x, torch.tensor([3]), table)
    slow = 3 / math.sqrt(10_000)
    expected = [math.cos(3), -2 * math.sin(slow), math.sin(3), 2 * math.cos(slow)]
    torch.testing.assert_close(rotated.flatten(), torch.tensor(expected))


def test_partial_rope_leaves_later_dims_alone(source):
    query, key = source.normal(5, 4, 80), source.normal(5, 2, 80)
    positions, table = torch.arange(5), rotary_table(5, 20)
    rotated, _ = reference.rope(query, key, positions, table)
    alone, _ = reference.rope(query[..., :20], key[..., :20], positions, table)
    assert torch.equal(rotated[..., 20:], query[..., 20:])
    assert torch.equal(rotated[..., :20], alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "gate"),
    [
        (reference.silu_and_mul, functional.silu),
        (reference.gelu_and_mul, functional.gelu),
        (reference.gelu_tanh_and_mul, lambda x: functional.gelu(x, approximate="tanh")),
    ],
)
def test_gated_activations_round_once(source, kernel, gate, dtype):
    x = source.normal(7, 2 * 31, scale=3.0, dtype=dtype)
    exact = (gate(x[:, :31].double()) * x[:, 31:].double()).to(dtype)
    tolerance = {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    torch.testing.assert_close(kernel(x), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_product_with_the_transpose(source, bias):
    x, weight, offset = source.normal(7, 13), source.normal(5, 13), source.normal(5) if bias else None
    expected = torch.einsum("tk,nk->tn", x.double(), weight.double()) + (offset.double() if bias else 0)
    torch.testing.assert_close(reference.linear(x, weight, offset), expected.float())


def test_embedding_takes_rows(source):
    weight = source.normal(97, 8)
    ids = torch.tensor([96, 0, 5, 5])
    assert torch.equal(reference.embedding(ids, weight), weight[ids])


def test_moe_is_transformers(source):
    config = MixtralConfig(num_local_experts=5, hidden_size=24, intermediate_size=31)
    experts = MixtralExperts(config)
    experts.gate_up_proj.data, experts.down_proj.data = source.normal(5, 62, 24), source.normal(5, 24, 31)
    x, weights = source.normal(17, 24), source.normal(17, 2).softmax(-1)
    chosen = torch.stack([source.distinct(4, 2) for _ in range(17)])  # expert 4 has no token
    expected = experts(x, chosen, weights)
    actual = reference.moe(x, weights, chosen, experts.gate_up_proj, experts.down_proj)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


def test_moe_sums_experts_before_it_rounds(source):
    x = source.normal(3, 16, dtype=torch.bfloat16)
    gate_up, down = source.normal(1, 8, 16, dtype=torch.bfloat16), source.normal(1, 16, 4, dtype=torch.bfloat16)
    twice = reference.moe(x, torch.full((3, 2), 0.5), torch.zeros(3, 2, dtype=torch.int64), gate_up, down)
    once = reference.moe(x, torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int64), gate_up, down)
    assert torch.equal(twice, once)
