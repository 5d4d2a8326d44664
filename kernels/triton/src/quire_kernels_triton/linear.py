"""linear, and linear with what stands before and after it in a layer: the norm of the residual sum, the gate.

One token, a few tokens, many tokens: `linear_stream`, `linear_skinny`, and the vendor's library through torch. The
last is as good as any for large products, but far from the memory's speed for small ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch.nn import functional

from quire_kernels_triton.activations import KINDS, gated
from quire_kernels_triton.linear_skinny import skinny_kernel
from quire_kernels_triton.linear_stream import stream_kernel
from quire_kernels_triton.norms import add_rms_norm, rms_norm
from quire_kernels_triton.tuning import SkinnySettings, Target, settings_for
from quire_kernels_triton.workspace import Counters

SKINNY_DTYPES = (torch.bfloat16, torch.float16)


class Input(NamedTuple):
    """What a product is taken of: x, or with a norm's weight the norm of ``residual + x``."""

    x: torch.Tensor
    residual: torch.Tensor | None = None
    norm_weight: torch.Tensor | None = None
    eps: float = 0.0


class Linear:
    """The ops linear and norm_linear as callables for one GPU."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._settings = settings_for(target.family)
        self._counters = Counters()

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` [T, N] of x [T, K], weight [N, K]."""
        if len(x) == 1:
            return self._stream(Input(x), weight, bias, None)[0]
        return self._product(x, weight, bias, None)

    def norm_linear(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        norm_weight: torch.Tensor,
        eps: float,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activation: str | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return linear of the norm of ``residual + x``, through `activation` if one is named, and that sum."""
        if len(x) == 1:
            return self._stream(Input(x, residual, norm_weight, eps), weight, bias, activation)
        if residual is None:
            normed, total = rms_norm(x, norm_weight, eps, self._target.launch), x
        else:
            normed, total = add_rms_norm(x, residual, norm_weight, eps, self._target.launch)
        return self._product(normed, weight, bias, activation), total

    def _product(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gate: str | None
    ) -> torch.Tensor:
        settings = self._skinny_settings(len(x), weight, gate) if x.dtype in SKINNY_DTYPES else None
        if settings is not None:
            return self._skinny(settings, x, weight, bias, gate)
        product = functional.linear(x, weight, bias)
        return product if gate is None else gated(gate, self._target.launch)(product)

    def _stream(
        self, given: Input, weight: torch.Tensor, bias: torch.Tensor | None, gate: str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, residual, norm_weight, eps = given
        settings, in_features = self._settings.stream, weight.shape[1]
        out_features = weight.shape[0] // (2 if gate else 1)
        out = torch.empty((len(x), out_features), dtype=x.dtype, device=x.device)
        total = x if residual is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows = self._rows_a_program(out_features)
        stream_kernel[(triton.cdiv(out_features, rows),)](
            x, x if residual is None else residual, x if norm_weight is None else norm_weight, weight,
            weight if bias is None else bias, out, total, out_features, weight.stride(0), eps,
            ADD=residual is not None, NORM=norm_weight is not None, GATE=KINDS[gate] if gate else 0,
            BIAS=bias is not None, IN=in_features, OUT=rows,
            INNER=min(settings.inner, triton.next_power_of_2(in_features)),
            num_warps=settings.num_warps, num_stages=settings.num_stages, **self._target.launch(1),
        )  # fmt: skip
        return out, total

    def _rows_a_program(self, out_features: int) -> int:
        """Halve the rows until every processor has four programs."""
        rows = self._settings.stream.out
        while rows > 1 and out_features < 4 * rows * self._target.num_processors:
            rows //= 2
        return rows

    def _skinny_settings(self, num_tokens: int, weight: torch.Tensor, gate: str | None) -> SkinnySettings | None:
        for settings in self._settings.skinny:
            fits = settings.min_weights <= weight.numel() <= settings.max_weights and num_tokens <= settings.max_tokens
            pays = (gate is not None or not settings.gated) and (self._target.starts_early or not settings.early)
            if fits and pays:
                return settings
        return None

    def _skinny(
        self,
        settings: SkinnySettings,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        gate: str | None,
    ) -> torch.Tensor:
        num_tokens, in_features = x.shape
        out_features = weight.shape[0] // (2 if gate else 1)
        out = torch.empty((num_tokens, out_features), dtype=x.dtype, device=x.device)
        out_tiles, token_tiles = triton.cdiv(out_features, settings.out), triton.cdiv(num_tokens, settings.tokens)
        num_tiles = out_tiles * token_tiles
        splits = self._num_splits(settings, num_tiles, in_features)
        count = splits * num_tiles * settings.tokens * settings.out * (2 if gate else 1) if splits > 1 else 0
        parts = torch.empty(count, dtype=torch.float32, device=x.device)
        skinny_kernel[(out_tiles, splits, token_tiles)](
            x, weight, weight if bias is None else bias, out, parts, self._counters.take(x.device, num_tiles),
            num_tokens, out_features, in_features, x.stride(0), weight.stride(0),
            GATE=KINDS[gate] if gate else 0, BIAS=bias is not None, EVEN=in_features % settings.inner == 0,
            TOKENS=settings.tokens, OUT=settings.out, INNER=settings.inner, SPLITS=splits, SWAP=settings.swap,
            STAGES=settings.num_stages,
            num_warps=settings.num_warps, num_stages=settings.num_stages, **self._target.launch(num_tokens),
        )  # fmt: skip
        return out

    def _num_splits(self, settings: SkinnySettings, num_tiles: int, in_features: int) -> int:
        """Return a power of two; each split has at least two steps of the inner loop."""
        wanted = int(self._target.num_processors * settings.programs_per_processor) // num_tiles
        useful = in_features // (2 * settings.inner)
        splits = max(1, min(wanted, useful, 16))
        return 1 << (splits.bit_length() - 1)
