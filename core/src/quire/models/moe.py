"""A mixture of experts in place of an MLP: a router chooses a few experts for each token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from quire.models.context import ModelContext, Parameter, Source
from quire.models.decoder_config import DecoderConfig, ExpertsConfig
from quire.models.layers import Linear, RMSNorm, Stream, enter, make_parameter


class MixtureOfExperts:
    """Sparse SwiGLU experts (Shazeer et al. 2017), of the stream's `norm`. `prefix` is a checkpoint name such as
    "model.layers.3."."""

    def __init__(
        self, context: ModelContext, config: DecoderConfig, experts: ExpertsConfig, norm: RMSNorm | None, prefix: str
    ) -> None:
        self._norm = norm
        self._context = context
        self._hidden_size = config.hidden_size
        self._experts = experts
        self._names = config.names
        self._prefix = prefix
        self._router = Linear(context, [(prefix + config.names.router, experts.num_experts)], config.hidden_size)
        self._resolution = context.resolve(
            "moe",
            num_experts=experts.num_experts,
            top_k=experts.num_active,
            hidden_size=config.hidden_size,
            intermediate_size=experts.intermediate_size,
        )
        self._compute = self._resolution.function
        self._gate_up: Any
        self._down: Any

    def parameters(self) -> Iterator[Parameter]:
        experts, width = self._experts.num_experts, self._experts.intermediate_size
        gate, up, down = self._names.expert_projections
        halves = ((gate, slice(0, width)), (up, slice(width, 2 * width)))
        gate_up = [self._source(at, name, rows) for at in range(experts) for name, rows in halves]
        downs = [self._source(at, down, slice(None)) for at in range(experts)]
        yield from self._router.parameters()
        shape = (experts, 2 * width, self._hidden_size)
        yield make_parameter(self._context, shape, gate_up, self._install_gate_up)
        yield make_parameter(self._context, (experts, self._hidden_size, width), downs, self._install_down)

    def __call__(self, stream: Stream) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[T, H]`, and the new residual."""
        x, residual = enter(stream, self._norm)
        probabilities = torch.softmax(self._router(x).float(), dim=-1)
        weights, chosen = probabilities.topk(self._experts.num_active, dim=-1)
        if self._experts.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return self._compute(x, weights, chosen, self._gate_up, self._down), residual

    def _source(self, expert: int, projection: str, rows: slice) -> Source:
        name = self._names.experts.format(expert=expert, projection=projection)
        return Source(f"{self._prefix}{name}.weight", (expert, rows))

    def _install_gate_up(self, weight: torch.Tensor) -> None:
        self._gate_up = self._repack(weight)

    def _install_down(self, weight: torch.Tensor) -> None:
        self._down = self._repack(weight)

    def _repack(self, weight: torch.Tensor) -> Any:
        """Each of the two weights goes through the transform of the op by itself; their shapes tell them apart."""
        transform = self._resolution.transform
        return transform.function(weight, self._resolution.request) if transform else weight
