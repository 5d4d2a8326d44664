"""linear for few tokens: splits of the inner axis, what a launch leaves behind, and which path serves what."""

from __future__ import annotations

import pytest
import torch

from quire.ops import reference
from quire_kernels_triton.linear import Linear
from quire_kernels_triton.tuning import Target


def normal(*shape, dtype=torch.float16):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * shape[-1] ** -0.25).to(dtype)


@pytest.fixture
def linear():
    return Linear(Target("interpreter", 8))


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 16])
@pytest.mark.parametrize(("in_features", "out_features"), [(512, 40), (300, 64), (31, 1)])
def test_few_tokens_give_what_torch_gives(linear, num_tokens, in_features, out_features):
    x, weight, bias = normal(num_tokens, in_features), normal(out_features, in_features), normal(out_features)
    expected = reference.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(linear.linear(x, weight, bias).double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("num_tokens", [1, 3, 16, 17])
@pytest.mark.parametrize("activation", [None, "silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"])
def test_a_norm_before_and_a_gate_after_change_nothing_but_the_rounding(linear, num_tokens, activation):
    x, residual, gain = normal(num_tokens, 256), normal(num_tokens, 256), normal(256)
    weight, bias = normal(44, 256), normal(44)
    wide = [tensor.double() for tensor in (x, residual, gain)]
    expected, _ = reference.norm_linear(*wide, 1e-6, weight.double(), bias.double(), activation)
    out, total = linear.norm_linear(x, residual, gain, 1e-6, weight, bias, activation)
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(total, residual + x)


def test_the_sum_of_the_splits_does_not_depend_on_their_number(linear):
    x, weight = normal(5, 512), normal(32, 512)
    split = linear.linear(x, weight)
    (counters,) = linear._counters._buffers[torch.device("cpu")]
    assert not counters.any()
    alone = Linear(Target("interpreter", 8))
    skinny = alone._settings.skinny[0]._replace(programs_per_processor=0)
    alone._settings = alone._settings._replace(skinny=(skinny,))
    torch.testing.assert_close(split, alone.linear(x, weight), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("num_tokens", "activation"), [(17, None), (70, "silu_and_mul")])
def test_more_tokens_than_a_tile_holds_take_several(linear, num_tokens, activation):
    skinny = linear._settings.skinny[0]._replace(tokens=32, max_tokens=128)
    linear._settings = linear._settings._replace(skinny=(skinny,))
    x, gain, weight = normal(num_tokens, 256), normal(256), normal(44, 256)
    expected, _ = reference.norm_linear(x.double(), None, gain.double(), 1e-6, weight.double(), None, activation)
    out, _ = linear.norm_linear(x, None, gain, 1e-6, weight, None, activation)
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2)
    (counters,) = linear._counters._buffers[torch.device("cpu")]
    assert not counters.any()


def test_rows_of_a_wider_matrix_are_taken_as_they_are(linear):
    wide = normal(4, 96)
    x, weight = wide[:, :64], normal(20, 64)
    torch.testing.assert_close(linear.linear(x, weight), reference.linear(x, weight), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("activation", [None, "silu_and_mul"])
@pytest.mark.parametrize(("in_features", "out_features"), [(512, 96), (300, 130)])
def test_either_operand_may_be_the_left_one(linear, in_features, out_features, activation):
    x, gain, weight = normal(5, in_features), normal(in_features), normal(out_features, in_features)
    straight, _ = linear.norm_linear(x, None, gain, 1e-6, weight, None, activation)
    swapped = Linear(Target("interpreter", 8))
    swapped._settings = swapped._settings._replace(skinny=(swapped._settings.skinny[0]._replace(swap=True),))
    out, _ = swapped.norm_linear(x, None, gain, 1e-6, weight, None, activation)
    torch.testing.assert_close(out, straight, rtol=1e-3, atol=1e-3)


def test_settings_that_need_an_early_start_are_passed_over_without():
    weight = torch.empty(1024, 3072, device="meta")
    in_order, early = (Linear(Target("sm_90", 132, dependent)) for dependent in (False, True))
    assert in_order._skinny_settings(100, weight, None) is None
    assert early._skinny_settings(100, weight, None).early
    assert early._skinny_settings(129, weight, None) is None
