"""Embedding and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from quire.backend.contract import KernelRequest
from quire.ops.reference.activations import gelu_and_mul, gelu_tanh_and_mul, silu_and_mul
from quire.ops.reference.norms import add_rms_norm, rms_norm
from quire.ops.reference.precision import wide
from quire.ops.spec import Bind

GATED: dict[str, Callable[..., Any]] = {
    "silu_and_mul": silu_and_mul,
    "gelu_and_mul": gelu_and_mul,
    "gelu_tanh_and_mul": gelu_tanh_and_mul,
}


def embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return rows `ids` [T] of weight [V, H]."""
    return functional.embedding(ids, weight)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x @ weight.T + bias`` [T, N] of x [T, K], weight [N, K], bias [N]."""
    return functional.linear(x, weight, bias)


def norm_linear(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return linear of the norm of ``residual + x``, through `activation` if one is named, and that sum."""
    gate = None if activation is None else GATED[activation]
    steps = _NormLinear(rms_norm, add_rms_norm, linear, gate)
    return steps.run(x, residual, norm_weight, eps, weight, bias, activation)


def compose_norm_linear(request: KernelRequest, bind: Bind) -> Callable[..., Any]:
    """Build norm_linear from the bound norms, linear and activation."""
    given = request.attributes
    activation = given.get("activation")
    out_features = given.get("out_features", 0)
    norm = {"hidden_size": given.get("in_features", 0)}
    product = {name: given[name] for name in ("in_features", "out_features", "bias") if name in given}
    gate = KernelRequest(activation, request.dtype, {"intermediate_size": out_features // 2}) if activation else None
    return _NormLinear(
        bind(KernelRequest("rms_norm", request.dtype, norm)),
        bind(KernelRequest("add_rms_norm", request.dtype, norm)),
        bind(KernelRequest("linear", request.dtype, product)),
        None if gate is None else bind(gate),
    ).run


class _NormLinear(NamedTuple):
    rms_norm: Callable[..., Any]
    add_rms_norm: Callable[..., Any]
    linear: Callable[..., Any]
    gate: Callable[..., Any] | None

    def run(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        norm_weight: torch.Tensor,
        eps: float,
        weight: Any,
        bias: torch.Tensor | None,
        activation: str | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            normed, total = self.rms_norm(x, norm_weight, eps), x
        else:
            normed, total = self.add_rms_norm(x, residual, norm_weight, eps)
        product = self.linear(normed, weight, bias)
        return (product if self.gate is None else self.gate(product)), total


def moe(
    x: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum [T, H] of each token's SwiGLU experts.

    x [T, H]; experts [T, k] names the experts of each token and weights [T, k] their shares; gate_up [E, 2 I, H];
    down [E, H, I]. The sum is taken in float32 or wider.
    """
    compute = wide(x.dtype)
    out = torch.zeros_like(x, dtype=compute)
    for expert in experts.unique().tolist():
        tokens, choices = (experts == expert).nonzero(as_tuple=True)
        hidden = silu_and_mul(linear(x[tokens], gate_up[expert]))
        share = weights[tokens, choices].to(compute)
        out.index_add_(0, tokens, linear(hidden, down[expert]).to(compute) * share[:, None])
    return out.to(x.dtype)
