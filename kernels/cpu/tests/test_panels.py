"""Weights in panels give the products that they give as they were, and the same bits whoever computes them."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import KernelRequest
from quire.ops import reference
from quire_kernels_cpu.panels import PanelWeight

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3}
NUM_TOKENS = (1, 7, 12, 13, 65)
SHAPE = (96, 130)  # rows fill panels of any instruction set; columns fill no vector


def packed(kernels, weight, **attributes):
    """Pack a copy of the weight."""
    panels = kernels.pack_weight(weight.clone(), KernelRequest("linear", "", attributes))
    assert isinstance(panels, PanelWeight)
    return panels


def made(dtype, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_projection_is_the_product(kernels, dtype, num_tokens):
    weight, bias, x = made(dtype, *SHAPE) / 12, made(dtype, SHAPE[0]), made(dtype, num_tokens, SHAPE[1])
    expected = x.double() @ weight.double().T + bias.double()
    actual = kernels.linear(x, packed(kernels, weight), bias)
    assert torch.allclose(actual.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("activation", [None, "silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"])
@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_product_and_activation_are_one(kernels, dtype, num_tokens, activation):
    weight, bias = made(dtype, *SHAPE) / 12, made(dtype, SHAPE[0])
    x, residual, norm = made(dtype, num_tokens, SHAPE[1]), made(dtype, SHAPE[1], num_tokens).T, made(dtype, SHAPE[1])
    wide = [tensor.double() for tensor in (x, residual, norm)]
    expected, total = reference.norm_linear(*wide, 1e-6, weight.double(), bias.double(), activation)
    panels = packed(kernels, weight, activation=activation)
    actual, summed = kernels.norm_linear(x, residual.contiguous(), norm, 1e-6, panels, bias, activation)
    scale = max(1.0, expected.abs().max().item())
    assert torch.allclose(actual.double(), expected, atol=TOLERANCE[dtype] * scale, rtol=0)
    assert torch.allclose(summed.double(), total, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_alone_and_on_any_number_of_threads(kernels, dtype):
    weight, x = packed(kernels, made(dtype, 192, 520)), made(dtype, 67, 520)
    together = kernels.linear(x, weight)
    assert torch.equal(together, torch.cat([kernels.linear(row[None], weight) for row in x]))
    torch.set_num_threads(3)
    assert torch.equal(together, kernels.linear(x, weight))


def test_packing_takes_the_weights_own_memory(kernels):
    weight = torch.randn(*SHAPE)
    panels = kernels.pack_weight(weight, KernelRequest("linear", "float32"))
    assert panels.data.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize(("shape", "attributes"), [(SHAPE, {"tied": True}), ((97, 64), {})])
def test_what_is_tied_or_does_not_divide_stays_as_it_is(kernels, shape, attributes):
    weight = torch.randn(*shape)
    assert kernels.pack_weight(weight, KernelRequest("linear", "float32", attributes)) is weight


def test_pairs_need_an_even_number_of_columns(best_kernels):
    weight = torch.zeros(96, 65, dtype=torch.bfloat16)
    kept = best_kernels.pack_weight(weight, KernelRequest("linear", "bfloat16")) is weight
    assert kept == (best_kernels.library.variant == "avx512bf16")
