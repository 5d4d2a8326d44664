"""The op between_attentions of few tokens: four products, each with its norm, activation, rotation or sum inside.

Between them a row's norm is carried as sums of its squares, one for each tile of columns: the product of what is not
yet normed is scaled afterwards, for a norm's scale is one number a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from quire_kernels_cuda.fused_product import INNER, TOKENS, Arguments, Kernels, LoadedKernel, Variant
from quire_kernels_triton.tuning import Target

MIN_TOKENS, MAX_TOKENS = 2, 256
ADD_TILE = 64  # outputs of a product that is added to the residual stream
GATE_TILES = (96, 128)  # gate and up together
MAX_SPLITS = 4


class Stream(NamedTuple):
    """The residual stream [T, H]; the same times the next norm's weight; sums of its squares by tile [T, H / 64]."""

    total: torch.Tensor
    gained: torch.Tensor
    squares: torch.Tensor


class Steps(NamedTuple):
    """The ops that the op stands for."""

    linear: Callable[..., Any]
    norm_linear: Callable[..., Any]
    qkv_rope_write: Callable[..., Any]


class Weights(NamedTuple):
    """The matrices of the four products."""

    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    qkv: torch.Tensor


class Norms(NamedTuple):
    """The weights of the norms before the MLP and before the next attention, and what keeps all norms from zero."""

    mlp: torch.Tensor
    attention: torch.Tensor
    eps: float


class BetweenAttentions:
    """The op as a callable for one GPU: in four launches, or for numbers of tokens where that does not pay in steps."""

    def __init__(self, target: Target, steps: Steps) -> None:
        self._target = target
        self._steps = steps
        self._kernels = Kernels()

    def __call__(
        self,
        attended: torch.Tensor,
        residual: torch.Tensor,
        output_weight: torch.Tensor,
        mlp_norm: torch.Tensor,
        gate_up_weight: torch.Tensor,
        down_weight: torch.Tensor,
        activation: str,
        attention_norm: torch.Tensor,
        qkv_weight: torch.Tensor,
        qkv_bias: torch.Tensor | None,
        eps: float,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next layer's query [T, Hq, D], and the residual stream [T, H]. Mutates key_cache, value_cache."""
        weights = Weights(output_weight, gate_up_weight, down_weight, qkv_weight)
        norms = Norms(mlp_norm, attention_norm, eps)
        to = Heads(positions, cos_sin, q_norm, k_norm, qkv_bias, key_cache, value_cache, slots)
        if MIN_TOKENS <= len(attended) <= MAX_TOKENS:
            return self._fused(attended.contiguous(), residual.contiguous(), weights, norms, to)
        return self._in_steps(attended, residual, weights, norms, to, activation)

    def _fused(
        self, attended: torch.Tensor, residual: torch.Tensor, weights: Weights, norms: Norms, to: Heads
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kernels = self._kernels.get(self._variants(len(attended), weights, to.key_cache.shape[3]))
        early = self._target.launch(len(attended))["DEPENDENT"]
        launches = [ProductLaunch(*pair, early, norms.eps) for pair in zip(kernels, weights, strict=True)]
        stream = add(launches[0], attended, residual, norms.mlp)
        hidden = gate(launches[1], stream)
        stream = add(launches[2], hidden, stream.total, norms.attention)
        return heads(launches[3], stream, to), stream.total

    def _in_steps(
        self,
        attended: torch.Tensor,
        residual: torch.Tensor,
        weights: Weights,
        norms: Norms,
        to: Heads,
        activation: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        linear, norm_linear, write = self._steps
        x = linear(attended, weights.output)
        hidden, residual = norm_linear(x, residual, norms.mlp, norms.eps, weights.gate_up, None, activation)
        x = linear(hidden, weights.down)
        qkv, residual = norm_linear(x, residual, norms.attention, norms.eps, weights.qkv, to.bias, None)
        caches = (to.key_cache, to.value_cache, to.slots)
        return write(qkv, to.positions, to.cos_sin, to.q_norm, to.k_norm, norms.eps, *caches), residual

    def _variants(self, num_tokens: int, weights: Weights, head_dim: int) -> list[Variant]:
        token_tiles = -(-num_tokens // TOKENS)
        gate_tile = next(tile for tile in GATE_TILES if weights.gate_up.shape[0] % tile == 0)
        kinds = (("ADD", ADD_TILE), ("GATE", gate_tile), ("ADD", ADD_TILE), ("HEADS", head_dim))
        return [
            self._variant(kind, out, weight, token_tiles) for (kind, out), weight in zip(kinds, weights, strict=True)
        ]

    def _variant(self, epilogue: str, out: int, weight: torch.Tensor, token_tiles: int) -> Variant:
        tiles = weight.shape[0] // out * token_tiles
        splits = self._splits(tiles, weight.shape[1] // INNER)
        peers = 2 if epilogue == "GATE" and token_tiles > 1 else 1
        # With more than two splits a kernel is short: it gains more from beginning beside the one ahead.
        alone = splits <= 2 and splits * tiles <= self._target.num_processors
        return Variant(epilogue, out, splits, peers, alone)

    def _splits(self, tiles: int, steps: int) -> int:
        """Double the blocks that share a tile while every processor has one at most, and every block two steps."""
        splits = 1
        while splits < MAX_SPLITS and 2 * splits * tiles <= self._target.num_processors and 4 * splits <= steps:
            splits *= 2
        return splits


class ProductLaunch(NamedTuple):
    """A product about to be launched."""

    kernel: LoadedKernel
    weight: torch.Tensor
    starts_early: bool
    eps: float

    def __call__(self, x: torch.Tensor, **fields: Any) -> None:
        given = {name: value.data_ptr() if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
        arguments = Arguments(num_tokens=len(x), in_features=x.shape[1], eps=self.eps, **given)
        tiles = self.weight.shape[0] // self.kernel.variant.out
        self.kernel.launch(x, self.weight, tiles, arguments, self.starts_early)


class Heads(NamedTuple):
    """What the heads of a layer are made with, and where they are written."""

    positions: torch.Tensor
    cos_sin: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    bias: torch.Tensor | None
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    slots: torch.Tensor


def add(launch: ProductLaunch, x: torch.Tensor, residual: torch.Tensor, gain: torch.Tensor) -> Stream:
    """Add the product of x [T, K] to the residual stream [T, H]; `gain` [H] is the next norm's weight."""
    tiles = launch.weight.shape[0] // ADD_TILE
    squares = torch.empty((len(x), tiles), dtype=torch.float32, device=x.device)
    stream = Stream(torch.empty_like(residual), torch.empty_like(residual), squares)
    launch(
        x, residual=residual, gain=gain, total=stream.total, gained=stream.gained, squares_out=squares,
        out_stride=residual.shape[1],
    )  # fmt: skip
    return stream


def gate(launch: ProductLaunch, stream: Stream) -> torch.Tensor:
    """Return ``silu(gate) * up`` [T, I] of the stream's norm."""
    x = stream.gained
    out = torch.empty((len(x), launch.weight.shape[0] // 2), dtype=x.dtype, device=x.device)
    launch(x, squares=stream.squares, square_parts=stream.squares.shape[1], out=out, out_stride=out.shape[1])
    return out


def heads(launch: ProductLaunch, stream: Stream, to: Heads) -> torch.Tensor:
    """Return the query [T, Hq, D] of the stream's norm; write key and value."""
    num_kv_heads, block_size, head_dim = to.key_cache.shape[1:]
    num_heads = launch.weight.shape[0] // head_dim - 2 * num_kv_heads
    x = stream.gained
    query = torch.empty((len(x), num_heads, head_dim), dtype=x.dtype, device=x.device)
    strides = zip(
        ("key_block", "key_head", "key_slot", "value_block", "value_head", "value_slot"),
        (*to.key_cache.stride()[:3], *to.value_cache.stride()[:3]),
        strict=True,
    )
    launch(
        x, squares=stream.squares, square_parts=stream.squares.shape[1], out=query,
        out_stride=num_heads * head_dim, num_heads=num_heads, num_kv_heads=num_kv_heads, block_size=block_size,
        cos_sin_stride=to.cos_sin.stride(0), **to._asdict(), **dict(strides),
    )  # fmt: skip
    return query
