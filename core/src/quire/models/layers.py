"""The plain layers: embedding, norms, linear maps, the gated MLP, the logits head.

A layer binds its kernel when it is built, yields its weights as `Parameter`s, and is a callable after they are
installed. Projections that read the same input are one matrix, filled from the checkpoint's separate tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from quire.models.context import ModelContext, Parameter, Source

Stream = tuple[torch.Tensor, torch.Tensor | None]
"""`(x, residual)`: what is to be added, and what has been summed so far (None before the first branch)."""

GATED = {"silu": "silu_and_mul", "gelu": "gelu_and_mul", "gelu_tanh": "gelu_tanh_and_mul"}


class Embedding:
    """Token embeddings `[V, H]`, scaled. `share` also takes the weight: the head that is tied to it."""

    def __init__(
        self,
        context: ModelContext,
        name: str,
        vocab_size: int,
        hidden_size: int,
        scale: float = 1.0,
        share: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        self._context = context
        self._name = name
        self._shape = (vocab_size, hidden_size)
        # The scale is rounded to the model's dtype first, as in training.
        self._scale = float(torch.tensor(scale, dtype=context.dtype))
        self._share = share
        self._embed = context.bind("embedding", vocab_size=vocab_size, hidden_size=hidden_size)
        self._weight: torch.Tensor

    def parameters(self) -> Iterator[Parameter]:
        yield make_parameter(self._context, self._shape, [Source(self._name)], self._install)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return `[T, H]` for ids `[T]`."""
        embedded: torch.Tensor = self._embed(input_ids, self._weight)
        return embedded if self._scale == 1.0 else embedded * self._scale

    def _install(self, weight: torch.Tensor) -> None:
        self._weight = weight
        if self._share is not None:
            self._share(weight)


class RMSNorm:
    """Root mean square norm of the last axis (Zhang and Sennrich 2019).

    The checkpoint holds weight - `offset`. With an offset the weight is kept in float32: 1 + w would lose the low bits
    of w in the model's dtype.
    """

    def __init__(self, context: ModelContext, name: str, size: int, eps: float, offset: float = 0.0) -> None:
        self._context = context
        self._source = Source(name)
        self._size = size
        self.eps = eps
        self.offset = offset
        self._norm = context.bind("rms_norm", hidden_size=size)
        self._add_norm = context.bind("add_rms_norm", hidden_size=size)
        self.weight: torch.Tensor

    def parameters(self) -> Iterator[Parameter]:
        yield Parameter(
            (self._size,),
            torch.float32 if self.offset else self._context.dtype,
            (self._source,),
            self._context.allocate,
            self._install,
            offset=self.offset,
            center=1.0 - self.offset,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` normed, same shape."""
        return self._norm(x, self.weight, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `residual + x` normed, and `residual + x`."""
        return self._add_norm(x, residual, self.weight, self.eps)  # type: ignore[no-any-return]

    def _install(self, weight: torch.Tensor) -> None:
        self.weight = weight


def enter(stream: Stream, norm: RMSNorm | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the stream's sum; return a branch's input, normed, and the new residual."""
    x, residual = stream
    if norm is None:
        total = x if residual is None else residual + x
        return total, total
    return (norm(x), x) if residual is None else norm.add(x, residual)


class Linear:
    """`x @ weight.T + bias`, with the weight repacked once for the kernel that serves it.

    `parts` are the checkpoint's names (without ".weight") and rows of the projections that are stacked in this one.
    """

    def __init__(
        self,
        context: ModelContext,
        parts: Sequence[tuple[str, int]],
        in_features: int,
        bias: bool = False,
        op: str = "linear",
        **attributes: Any,
    ) -> None:
        self._context = context
        self._parts = tuple(parts)
        self.in_features = in_features
        self.out_features = sum(rows for _, rows in parts)
        self.has_bias = bias
        self._resolution = context.resolve(
            op, in_features=in_features, out_features=self.out_features, bias=bias, **attributes
        )
        self._function = self._resolution.function
        self.weight: Any
        self.bias: torch.Tensor | None = None

    @property
    def repacked(self) -> bool:
        """Return whether `weight` is not the checkpoint's matrix, but what its kernel made of it."""
        return self._resolution.transform is not None

    def parameters(self) -> Iterator[Parameter]:
        shape = (self.out_features, self.in_features)
        yield make_parameter(self._context, shape, self._sources("weight"), self.install)
        if self.has_bias:
            yield make_parameter(self._context, shape[:1], self._sources("bias"), self._install_bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[T, out_features]` for `x` `[T, in_features]`."""
        return self._function(x, self.weight, self.bias)

    def install(self, weight: torch.Tensor) -> None:
        """Take the weight `[out_features, in_features]`, repacked if the kernel wants that."""
        transform = self._resolution.transform
        self.weight = transform.function(weight, self._resolution.request) if transform else weight

    def _install_bias(self, bias: torch.Tensor) -> None:
        self.bias = bias

    def _sources(self, kind: str) -> list[Source]:
        sources, start = [], 0
        for name, rows in self._parts:
            sources.append(Source(f"{name}.{kind}", (slice(start, start + rows),)))
            start += rows
        return sources


class NormLinear(Linear):
    """The first linear map of a branch, with the norm before it, which takes the residual stream's sum, and the gated
    activation after it, if any: one op, so that a backend may serve it by one kernel.

    The norm's weight stays the norm's own parameter. Without a norm it maps the sum itself.
    """

    def __init__(
        self,
        context: ModelContext,
        norm: RMSNorm | None,
        parts: Sequence[tuple[str, int]],
        in_features: int,
        bias: bool = False,
        activation: str | None = None,
    ) -> None:
        self.norm = norm
        self._activation = None if activation is None else GATED[activation]
        if norm is not None:
            super().__init__(context, parts, in_features, bias, "norm_linear", activation=self._activation)
            return
        super().__init__(context, parts, in_features, bias)
        if self._activation is not None:
            self._activate = context.bind(self._activation, intermediate_size=self.out_features // 2)

    def enter(self, stream: Stream) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what comes out `[T, out_features]` (a half of it after an activation), and the new residual."""
        if self.norm is not None:
            return self._function(  # type: ignore[no-any-return]
                *stream, self.norm.weight, self.norm.eps, self.weight, self.bias, self._activation
            )
        x, total = enter(stream, None)
        product = self(x)
        return (product if self._activation is None else self._activate(product)), total


class GatedMLP:
    """`down(activation(gate(x)) * up(x))` (Shazeer 2020), of the stream's norm. `gate_up` and `down` are checkpoint
    names."""

    def __init__(
        self,
        context: ModelContext,
        norm: RMSNorm | None,
        gate_up: Sequence[str],
        down: str,
        hidden_size: int,
        intermediate_size: int,
        activation: str = "silu",
        bias: bool = False,
    ) -> None:
        self.activation = activation
        rows = 2 * intermediate_size // len(gate_up)
        parts = [(name, rows) for name in gate_up]
        self.gate_up = NormLinear(context, norm, parts, hidden_size, bias, activation)
        self.down = Linear(context, [(down, hidden_size)], intermediate_size, bias)

    def parameters(self) -> Iterator[Parameter]:
        yield from self.gate_up.parameters()
        yield from self.down.parameters()

    def __call__(self, stream: Stream) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[T, H]`, and the new residual."""
        hidden, residual = self.gate_up.enter(stream)
        return self.down(hidden), residual


class LogitsHead:
    """Scores of every vocabulary entry: scaled and softly capped in float32, if at all, otherwise in the model's dtype.
    `tied`: embeddings read the weight too."""

    def __init__(
        self,
        context: ModelContext,
        name: str,
        vocab_size: int,
        hidden_size: int,
        scale: float,
        soft_cap: float | None,
        tied: bool,
    ) -> None:
        shared: dict[str, Any] = {"tied": True} if tied else {}
        self.linear = Linear(context, [(name, vocab_size)], hidden_size, **shared)
        self._scale = scale
        self._soft_cap = soft_cap
        self.dtype = context.dtype if scale == 1.0 and soft_cap is None else torch.float32

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return `[S, V]` for hidden states `[S, H]`."""
        logits = self.linear(hidden).to(self.dtype)
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._soft_cap is not None:
            logits = torch.tanh(logits / self._soft_cap) * self._soft_cap
        return logits


def make_parameter(
    context: ModelContext, shape: tuple[int, ...], sources: Sequence[Source], install: Callable[[torch.Tensor], None]
) -> Parameter:
    """Return a parameter in the model's dtype."""
    return Parameter(shape, context.dtype, tuple(sources), context.allocate, install)
