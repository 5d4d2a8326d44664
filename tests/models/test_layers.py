"""Layers and the kernel table."""

from dataclasses import replace

import torch

from quire.backend.contract import Kernel, WeightTransform
from quire.models.layers import Linear, RMSNorm

from .harness import make_context


def load(layer, tensors):
    """Install tensors by name."""
    for parameter in layer.parameters():
        weight = torch.empty(parameter.shape, dtype=parameter.dtype)
        for source in parameter.sources:
            weight[source.place] = tensors[source.name]
        parameter.install(weight + parameter.offset)


def test_a_linear_weight_is_repacked_once_for_the_kernel_that_serves_it():
    context = make_context()
    repacked = []

    def repack(weight, request):
        repacked.append(request.attributes)
        return weight.T.contiguous()

    context.table.register(Kernel("linear", "transposed", lambda x, weight, bias: x @ weight, ("float32",)))
    context.table.register_transform(WeightTransform("linear", "transposed", repack))
    weight, x = torch.randn(5, 7), torch.randn(3, 7)
    layer = Linear(context, [("w", 5)], 7)
    load(layer, {"w.weight": weight})
    torch.testing.assert_close(layer(x), x @ weight.T)
    layer(x)
    assert repacked == [{"in_features": 7, "out_features": 5, "bias": False}]


def test_stacked_projections_lie_in_the_order_of_their_names():
    layer = Linear(make_context(), [("q", 2), ("k", 1)], 3, bias=True)
    load(
        layer,
        {
            "q.weight": torch.ones(2, 3),
            "k.weight": torch.full((1, 3), 2.0),
            "q.bias": torch.tensor([0.5, 0.25]),
            "k.bias": torch.tensor([0.125]),
        },
    )
    assert layer(torch.ones(1, 3)).tolist() == [[3.5, 3.25, 6.125]]


def test_a_norm_stored_as_an_offset_keeps_its_low_bits():
    context = replace(make_context(), dtype=torch.bfloat16)
    norm = RMSNorm(context, "norm.weight", 4, eps=0.0, offset=1.0)
    load(norm, {"norm.weight": torch.full((4,), 2.0**-9)})
    assert norm.weight.tolist() == [1 + 2.0**-9] * 4
    assert norm(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
