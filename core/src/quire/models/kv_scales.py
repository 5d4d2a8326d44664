"""Scales of an 8-bit KV cache that a checkpoint brings, folded into its weights as they are read (ADR 0009).

A stored key is the key divided by its layer's scale. A floating format of 8 bits is as fine anywhere in its range, so
the scale is taken up to a power of two: dividing by that changes exponents alone, and every weight stays exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from quire.errors import ModelError
from quire.models.checkpoint import TensorSource
from quire.models.decoder_config import DecoderConfig

SCALE = re.compile(r"(?P<layer>.*\.self_attn\.)(?:attn\.|[kv]_proj\.)?(?P<kind>[kv])_scale")


class Factor(NamedTuple):
    """What some rows of a tensor are multiplied by. `offset`: the checkpoint holds the weight less this."""

    value: float
    rows: slice = slice(None)
    offset: float = 0.0


class FoldedScales:
    """A checkpoint without its scales: `factors` are applied to the tensors that they name, when these are read."""

    def __init__(self, source: TensorSource, factors: Mapping[str, list[Factor]]) -> None:
        self.path: Path = source.path
        self.names = frozenset(name for name in source.names if not SCALE.fullmatch(name))
        self._source = source
        self._factors = factors

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading it."""
        return self._source.shape(name)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor with the factors in it. Raise ModelError."""
        tensor = self._source.read(name)
        if name not in self._factors or not tensor.is_floating_point() or tensor.itemsize == 1:
            return tensor  # codes are no numbers yet: the loader refuses them by their dtype
        wide = tensor.double()  # weight - offset would lose bits in its own dtype; the layer that takes it is wide
        for factor in self._factors[name]:
            rows = wide[factor.rows]
            rows.add_(factor.offset).mul_(factor.value).sub_(factor.offset)
        return wide


@contextmanager
def fold_kv_scales(source: TensorSource, config: DecoderConfig, kv_dtype: torch.dtype) -> Iterator[TensorSource]:
    """Yield the checkpoint with its scales folded in where the cache has 8 bits; where it has more they do nothing.

    Raise ModelError on a scale that is no positive number.
    """
    found = [match for name in sorted(source.names) if (match := SCALE.fullmatch(name))]
    factors: dict[str, list[Factor]] = {}
    for match in found if kv_dtype.itemsize == 1 else ():
        scale = _power_of_two(source, match.string)
        fold = _fold_key if match["kind"] == "k" else _fold_value
        for name, factor in fold(config, match["layer"], scale):
            factors.setdefault(name, []).append(factor)
    yield FoldedScales(source, {name: factors[name] for name in factors.keys() & source.names}) if found else source


def _power_of_two(source: TensorSource, name: str) -> float:
    """Return the least power of two that is not below a scale."""
    values = source.read(name).double().flatten()
    if len(values) != 1 or not 0 < float(values) < math.inf:
        raise ModelError(
            f"{source.path}: {name} is {values.tolist()[:4]}; the scale of a KV cache must be one positive number for "
            "each layer; with kv_dtype=auto no scale is needed"
        )
    return 2.0 ** math.ceil(math.log2(float(values)))


def _fold_key(config: DecoderConfig, layer: str, scale: float) -> Iterator[tuple[str, Factor]]:
    """Divide the keys, and multiply the queries, so that scores stay what they are: in the norms that follow the
    projections, if there are any."""
    if config.qk_norm is not None:
        yield f"{layer}q_norm.weight", Factor(scale, offset=config.norm_offset)
        yield f"{layer}k_norm.weight", Factor(1 / scale, offset=config.norm_offset)
        return
    for name, rows, value in zip(*_projections(config, layer), (scale, 1 / scale, None), strict=True):
        if value is not None:
            yield from ((f"{name}.{part}", Factor(value, rows)) for part in ("weight", "bias"))


def _fold_value(config: DecoderConfig, layer: str, scale: float) -> Iterator[tuple[str, Factor]]:
    """Divide the values, and multiply what the output projection makes of them."""
    names, rows = _projections(config, layer)
    yield from ((f"{names[2]}.{part}", Factor(1 / scale, rows[2])) for part in ("weight", "bias"))
    yield f"{layer}o_proj.weight", Factor(scale)


def _projections(config: DecoderConfig, layer: str) -> tuple[list[str], list[slice]]:
    """Return the tensors that hold the projections of query, key and value, and their rows in them."""
    names = [f"{layer}{name}" for name in config.names.qkv]
    if len(names) == 3:
        return names, [slice(None)] * 3
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return names * 3, [slice(0, query), slice(query, query + kv), slice(query + kv, None)]
