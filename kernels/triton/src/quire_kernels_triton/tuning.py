"""Launch settings by GPU family, shipped as data: nothing is tuned while an engine starts.

A family's file `tuned/<family>.json` overrides `DEFAULTS` field by field; a family without a file inherits the one that
`_NEAREST` names. `python -m quire_kernels_triton.tune` measures on a device and writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch

from quire_kernels_triton.launching import Launch, dependent, in_order


class Target(NamedTuple):
    """The GPU that kernels are launched on. `family` is `sm_90`, `gfx942`, `xpu`, or `interpreter` on a CPU.

    `dependent`: kernels may start before the one ahead of them has ended, where the GPU can do that (see `launching`).
    """

    family: str
    num_processors: int  # streaming multiprocessors or compute units
    dependent: bool = False

    @property
    def starts_early(self) -> bool:
        """Return whether kernels may start early, and this GPU can do that."""
        return self.dependent and self.family.startswith("sm_") and int(self.family.removeprefix("sm_")) >= 90

    @property
    def launch(self) -> Launch:
        """Return what every launch of a step is given."""
        return dependent if self.starts_early else in_order


class DecodeSettings(NamedTuple):
    """paged_attention where every row has one query. `min_chunk`: keys that are worth a program of their own.

    Rows are split until each processor has `programs_per_processor`, or `programs_for_few` (0: as many) where a row's
    KV heads and the rows make pairs for half of the processors at most.
    """

    tile: int = 64
    num_warps: int = 4
    num_stages: int = 3
    min_chunk: int = 128
    programs_per_processor: int = 4
    programs_for_few: int = 0


class RaggedSettings(NamedTuple):
    """paged_attention of mixed rows: `rows` query heads by `tile` keys at a time."""

    rows: int = 128
    tile: int = 64
    num_warps: int = 8
    num_stages: int = 2


class StreamSettings(NamedTuple):
    """linear of one token: `out` weight rows a program, `inner` of each at a time."""

    out: int = 4
    inner: int = 1024
    num_warps: int = 4
    num_stages: int = 1


class SkinnySettings(NamedTuple):
    """linear of a few tokens on the matrix units: tiles of `tokens` tokens by `out` outputs, `inner` inputs at a time.

    It serves products of up to `max_tokens` tokens, of `min_weights` to `max_weights` weights, if `gated` only those
    with a gate after them. `swap`: the weight is the left operand, which pays where tiles have few tokens. `early`: it
    pays only where kernels start before the one ahead has ended, and is passed over where they do not.
    """

    tokens: int = 16
    max_tokens: int = 16
    min_weights: int = 0
    max_weights: int = 1 << 62
    gated: bool = False
    swap: bool = False
    early: bool = False
    out: int = 64
    inner: int = 128
    num_warps: int = 4
    num_stages: int = 4
    programs_per_processor: float = 2


class ExpertsSettings(NamedTuple):
    """moe: blocks of `rows` tokens of one expert by `out` outputs, `inner` inputs at a time. `rows` is its key."""

    rows: int = 16
    out: int = 128
    inner: int = 64
    num_warps: int = 4
    num_stages: int = 4


class SampleSettings(NamedTuple):
    """sample: `tiles` of `tile` tokens at a time; `programs_per_processor` bounds how far a row is split."""

    tile: int = 512
    tiles: int = 4
    num_warps: int = 4
    choose_warps: int = 8
    programs_per_processor: int = 4


class Settings(NamedTuple):
    """All of a family's settings; `decode`, `split` and `ragged` by padded head size, `experts` by rows of a block. Of
    `skinny` the first that serves a product is taken; what none serves goes to the vendor's library.

    `decode` serves rows enough to fill the device, `crowded` and `packed` more and still more of them, as many as their
    `programs_per_processor` say; `split` fewer rows, whose keys are split over programs; `ragged` serves rows of a few
    queries, `long` rows of many.
    """

    packed: Mapping[int, DecodeSettings]
    crowded: Mapping[int, DecodeSettings]
    decode: Mapping[int, DecodeSettings]
    split: Mapping[int, DecodeSettings]
    ragged: Mapping[int, RaggedSettings]
    long: Mapping[int, RaggedSettings]
    experts: Mapping[int, ExpertsSettings]
    skinny: tuple[SkinnySettings, ...]
    stream: StreamSettings
    sample: SampleSettings


HEAD_SIZES = (16, 32, 64, 128, 256, 512)
DECODE_KINDS = ("packed", "crowded", "decode", "split")  # from most rows to fewest
EXPERT_ROWS = (16, 32, 64, 128)
_KINDS = {"decode": DecodeSettings, "ragged": RaggedSettings, "experts": ExpertsSettings}
_SIZES = {"decode": HEAD_SIZES, "ragged": HEAD_SIZES, "experts": EXPERT_ROWS}
_VARIANTS = {
    **dict.fromkeys(("packed", "crowded", "split"), "decode"),
    "long": "ragged",
}  # differs from what it is a variant of in what its file says
_SINGLE = {"stream": StreamSettings, "sample": SampleSettings}
_NEAREST = {
    **dict.fromkeys(("sm_86", "sm_87", "sm_89", "sm_120"), "sm_80"),
    **dict.fromkeys(("sm_100", "sm_103"), "sm_90"),
    **dict.fromkeys(("gfx90a", "gfx950"), "gfx942"),
    "gfx1201": "gfx1100",
}


def detect(dependent: bool = False) -> Target:
    """Return the current GPU's target, or the interpreter's where torch sees none."""
    if not torch.cuda.is_available():
        return Target("interpreter", 2)
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    name = getattr(found, "gcnArchName", "").split(":")[0] if torch.version.hip else f"sm_{found.major}{found.minor}"
    return Target(name, found.multi_processor_count, dependent)


@cache
def settings_for(family: str) -> Settings:
    """Return a family's settings. Raise ValueError on a field in its file that does not exist."""
    data = _read(family) or _read(_NEAREST.get(family, "")) or {}
    sized = {kind: _sized(kind, data.get(kind, {})) for kind in _KINDS}
    single = {kind: _fill(kind, _SINGLE[kind](), data.get(kind, {})) for kind in _SINGLE}
    variants = {
        kind: {size: _fill(kind, given, data.get(kind, {}).get(str(size), {})) for size, given in sized[base].items()}
        for kind, base in _VARIANTS.items()
    }
    skinny = tuple(_fill("skinny", SkinnySettings(), given) for given in data.get("skinny", [{}]))
    return Settings(**sized, **single, **variants, skinny=skinny)


def _read(family: str) -> Mapping[str, Any] | None:
    file = resources.files(__package__) / "tuned" / f"{family}.json"
    return json.loads(file.read_text()) if family and file.is_file() else None


def _sized(kind: str, data: Mapping[str, Any]) -> Mapping[int, Any]:
    return {size: _fill(kind, _default(kind, size), data.get(str(size), {})) for size in _SIZES[kind]}


def _default(kind: str, size: int) -> Any:
    """Shrink the tiles of large heads, so that they fit 64 KB of shared memory; widen blocks of experts."""
    base = _KINDS[kind]()
    if kind == "experts":
        return base._replace(rows=size, num_warps=8 if size == 128 else 4, num_stages=3)
    if size <= 128:
        return base
    tile = max(16, base.tile * 128 // size)
    return base._replace(tile=tile, num_stages=2, **({"rows": 64} if kind == "ragged" else {}))


def _fill(kind: str, base: Any, data: Mapping[str, Any]) -> Any:
    unknown = set(data) - set(base._fields)
    if unknown:
        raise ValueError(f"tuned settings of {kind} have {sorted(unknown)}; known are {', '.join(base._fields)}")
    return base._replace(**data)
