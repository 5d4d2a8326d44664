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
TOKENS = 16  # the least that a matrix product takes


class Norm(NamedTuple):
    """A norm that stands before a linear map; `residual` None: x is normed alone."""

    residual: torch.Tensor | None
    weight: torch.Tensor
    eps: float


class Linear:
    """The op as a callable for one GPU."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._settings = settings_for(target.family)
        self._counters = Counters()

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` [T, N] of x [T, K], weight [N, K]."""
        return self.run(x, weight, bias, gate=None)

    def run(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gate: str | None) -> torch.Tensor:
        """Return the product, through the gate if one is named (e.g. "silu_and_mul"): then [T, N / 2]."""
        if x.shape[0] == 1:
            return self._stream(x, None, weight, bias, gate)[0]
        if x.shape[0] <= self._settings.skinny.max_tokens and x.dtype in SKINNY_DTYPES:
            return self._skinny(x, weight, bias, gate)
        product = functional.linear(x, weight, bias)
        return product if gate is None else gated(gate)(product)

    def run_normed(
        self, x: torch.Tensor, norm: Norm, weight: torch.Tensor, bias: torch.Tensor | None, gate: str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `run` of the norm of ``x + residual``, and that sum."""
        if x.shape[0] == 1:
            return self._stream(x, norm, weight, bias, gate)
        if norm.residual is None:
            return self.run(rms_norm(x, norm.weight, norm.eps), weight, bias, gate), x
        normed, total = add_rms_norm(x, norm.residual, norm.weight, norm.eps)
        return self.run(normed, weight, bias, gate), total

    def _stream(
        self, x: torch.Tensor, norm: Norm | None, weight: torch.Tensor, bias: torch.Tensor | None, gate: str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        settings, in_features = self._settings.stream, weight.shape[1]
        out_features = weight.shape[0] // (2 if gate else 1)
        out = torch.empty((1, out_features), dtype=x.dtype, device=x.device)
        residual = norm.residual if norm is not None else None
        total = x if residual is None else torch.empty_like(x)
        rows = self._rows_a_program(out_features)
        stream_kernel[(triton.cdiv(out_features, rows),)](
            x, x if residual is None else residual, x if norm is None else norm.weight, weight,
            weight if bias is None else bias, out, total, out_features, weight.stride(0),
            0.0 if norm is None else norm.eps,
            ADD=residual is not None, NORM=norm is not None, GATE=KINDS[gate] if gate else 0, BIAS=bias is not None,
            IN=in_features, OUT=rows, INNER=min(settings.inner, triton.next_power_of_2(in_features)),
            num_warps=settings.num_warps, num_stages=settings.num_stages,
        )  # fmt: skip
        return out, total

    def _rows_a_program(self, out_features: int) -> int:
        """Halve the rows until every processor has four programs."""
        rows = self._settings.stream.out
        while rows > 1 and out_features < 4 * rows * self._target.num_processors:
            rows //= 2
        return rows

    def _skinny(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gate: str | None
    ) -> torch.Tensor:
        settings, (num_tokens, in_features) = self._settings.skinny, x.shape
        out_features = weight.shape[0] // (2 if gate else 1)
        out = torch.empty((num_tokens, out_features), dtype=x.dtype, device=x.device)
        num_tiles = triton.cdiv(out_features, settings.out)
        splits = self._num_splits(settings, num_tiles, in_features)
        count = splits * num_tiles * TOKENS * settings.out * (2 if gate else 1) if splits > 1 else 0
        parts = torch.empty(count, dtype=torch.float32, device=x.device)
        skinny_kernel[(num_tiles, splits)](
            x, weight, weight if bias is None else bias, out, parts, self._counters.take(x.device, num_tiles),
            num_tokens, out_features, in_features, x.stride(0), weight.stride(0),
            GATE=KINDS[gate] if gate else 0, BIAS=bias is not None, EVEN=in_features % settings.inner == 0,
            TOKENS=TOKENS, OUT=settings.out, INNER=settings.inner, SPLITS=splits, STAGES=settings.num_stages,
            num_warps=settings.num_warps, num_stages=settings.num_stages,
        )  # fmt: skip
        return out

    def _num_splits(self, settings: SkinnySettings, num_tiles: int, in_features: int) -> int:
        """Return a power of two; each split has at least two steps of the inner loop."""
        wanted = self._target.num_processors * settings.programs_per_processor // num_tiles
        useful = in_features // (2 * settings.inner)
        splits = max(1, min(wanted, useful, 16))
        return 1 << (splits.bit_length() - 1)
