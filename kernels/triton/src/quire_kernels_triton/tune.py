"""Choose launch settings on the GPU that is here, and write them as a family's file.

    python -m quire_kernels_triton.tune --out src/quire_kernels_triton/tuned/sm_90.json

Each candidate is timed over a few typical shapes, cold; the one with the smallest geometric mean is written. Candidates
that do not fit the GPU are passed over. Takes some minutes, most of them compiling.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from quire.ops.spec import AttentionBatch
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.linear import Linear
from quire_kernels_triton.moe import MixtureOfExperts
from quire_kernels_triton.tuning import (
    DECODE_KINDS,
    EXPERT_ROWS,
    DecodeSettings,
    ExpertsSettings,
    RaggedSettings,
    SkinnySettings,
    StreamSettings,
    detect,
    settings_for,
)

HEAD_SIZES = (64, 128, 256)
DTYPE = torch.bfloat16
ATTENTION_SHAPES = {  # rows, and their mean length
    "decode": ((80, 1200), (128, 1000), (256, 600)),
    "split": ((1, 4096), (16, 1500), (48, 1300)),
    "ragged": ((16, 128), (64, 100)),
    "long": ((1, 2048), (8, 512)),
}
LINEAR_SHAPES = ((1024, 4096), (3072, 1024), (4096, 6144), (4096, 28672), (14336, 4096))  # in, out
EXPERTS_SHAPES = ((128, 8, 2048, 768), (8, 2, 4096, 14336))  # experts, of them chosen, hidden and intermediate size
HEADS = (32, 8)
BLOCK_SIZE = 16


class Timed(NamedTuple):
    """A candidate and its geometric mean over the shapes, in milliseconds."""

    settings: Any
    mean_ms: float


def decode_candidates(base: DecodeSettings) -> Iterator[DecodeSettings]:
    for tile, num_warps, num_stages in itertools.product((16, 32, 64, 128), (1, 2, 4), (2, 3, 5, 7)):
        yield base._replace(tile=tile, num_warps=num_warps, num_stages=num_stages)


def ragged_candidates(base: RaggedSettings) -> Iterator[RaggedSettings]:
    for rows, tile, num_warps, num_stages in itertools.product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 5)):
        yield base._replace(rows=rows, tile=tile, num_warps=num_warps, num_stages=num_stages)


def stream_candidates(base: StreamSettings) -> Iterator[StreamSettings]:
    for out, inner, num_warps in itertools.product((2, 4, 8), (512, 1024, 2048), (2, 4, 8)):
        yield base._replace(out=out, inner=inner, num_warps=num_warps)


def skinny_candidates(base: SkinnySettings) -> Iterator[SkinnySettings]:
    shapes, programs = itertools.product((32, 64), (64, 128, 256), (3, 4, 5)), (0.5, 1, 2, 3)
    for (out, inner, num_stages), programs_each, swap in itertools.product(shapes, programs, (False, True)):
        sizes = {"out": out, "inner": inner, "num_stages": num_stages}
        yield base._replace(**sizes, programs_per_processor=programs_each, swap=swap)


def experts_candidates(base: ExpertsSettings) -> Iterator[ExpertsSettings]:
    for out, inner, num_warps, num_stages in itertools.product((64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4)):
        yield base._replace(out=out, inner=inner, num_warps=num_warps, num_stages=num_stages)


def tune_attention(kind: str, head_size: int, candidates: Iterable[Any]) -> Timed:
    """Return the best settings of one kind, a field of `Settings`, for one head size."""
    attend, decode = PagedAttention(detect()), kind in DECODE_KINDS
    inputs = [_attention_inputs(rows, length, head_size, decode) for rows, length in ATTENTION_SHAPES[kind]]
    kept = attend._settings

    def run(settings: Any) -> list[Callable[[], Any]]:
        kinds = DECODE_KINDS if decode else (kind,)  # how many rows there are must not choose
        attend._settings = kept._replace(**dict.fromkeys(kinds, {**getattr(kept, kind), head_size: settings}))
        return [lambda given=given: attend(**given) for given in inputs]

    return _best(candidates, run)


def tune_linear(num_tokens: int, candidates: Iterable[Any]) -> Timed:
    """Return the best settings of "stream" for one token, of "skinny" for more."""
    linear = Linear(detect())
    inputs = [(_random(num_tokens, inner), _random(outer, inner)) for inner, outer in LINEAR_SHAPES]
    kept = linear._settings

    def run(settings: Any) -> list[Callable[[], Any]]:
        given = {"stream": settings} if num_tokens == 1 else {"skinny": (settings,)}
        linear._settings = kept._replace(**given)
        return [lambda x=x, weight=weight: linear.linear(x, weight) for x, weight in inputs]

    return _best(candidates, run)


def tune_experts(rows: int, candidates: Iterable[ExpertsSettings]) -> Timed:
    """Return the best settings for blocks of `rows`, each expert's tokens filling one block and a half."""
    compute = MixtureOfExperts(detect())
    inputs = [_experts_inputs(rows * 3 // 2, *shape) for shape in EXPERTS_SHAPES]
    kept = compute._settings

    def run(settings: Any) -> list[Callable[[], Any]]:
        compute._settings = {**kept, rows: settings}
        return [lambda given=given: compute(*given) for given in inputs]

    return _best(candidates, run)


def _best(candidates: Iterable[Any], run: Callable[[Any], list[Callable[[], Any]]]) -> Timed:
    timed = [Timed(settings, _mean_ms(run(settings))) for settings in candidates]
    best = min(timed, key=lambda item: item.mean_ms)
    print(f"  {best.settings}: {best.mean_ms:.4f} ms, of {len(timed)}", flush=True)
    return best


def _mean_ms(calls: Iterable[Callable[[], Any]]) -> float:
    try:
        times = [triton.testing.do_bench(call, warmup=3, rep=15, return_mode="median") for call in calls]
    except triton.runtime.errors.OutOfResources:
        return math.inf
    return math.exp(sum(map(math.log, times)) / len(times))


def _attention_inputs(num_rows: int, mean_len: int, head_size: int, decode: bool) -> Mapping[str, Any]:
    """Make rows as uneven as those of a server: what is best for rows of one length leaves processors idle there."""
    lens = (mean_len * torch.linspace(0.25, 1.75, num_rows) if num_rows > 1 else torch.tensor([mean_len])).int()
    lens = lens[torch.randperm(num_rows)].cuda()
    longest = int(lens.max())
    per_row = -(-longest // BLOCK_SIZE)
    caches = [_random(num_rows * per_row, HEADS[1], BLOCK_SIZE, head_size) for _ in range(2)]
    table = torch.randperm(num_rows * per_row, device="cuda").int().view(num_rows, per_row)
    counts = torch.ones_like(lens) if decode else lens
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    num_tokens = int(starts[-1])
    return {
        "query": _random(num_tokens, HEADS[0], head_size),
        "key_cache": caches[0],
        "value_cache": caches[1],
        "batch": AttentionBatch(
            starts, lens, table, torch.zeros(num_tokens, device="cuda", dtype=torch.int64), int(counts.max()), longest
        ),
        "scale": head_size**-0.5,
    }


def _experts_inputs(
    tokens_an_expert: int, num_experts: int, top_k: int, hidden_size: int, intermediate_size: int
) -> tuple[torch.Tensor, ...]:
    num_tokens = tokens_an_expert * num_experts // top_k
    shares, chosen = torch.rand(num_tokens, num_experts, device="cuda").topk(top_k)
    gate_up = _random(num_experts, 2 * intermediate_size, hidden_size)
    return (
        _random(num_tokens, hidden_size),
        shares,
        chosen,
        gate_up,
        _random(num_experts, hidden_size, intermediate_size),
    )


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=DTYPE)


def _changes(settings: Any, base: Any) -> dict[str, Any]:
    """Return the fields that differ from the defaults."""
    return {name: value for name, value in settings._asdict().items() if value != getattr(base, name)}


def main() -> int:
    """Tune everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    base = settings_for("")
    found: dict[str, Any] = {kind: {} for kind in (*ATTENTION_SHAPES, "experts")}
    for kind, size in itertools.product(ATTENTION_SHAPES, HEAD_SIZES):
        print(f"{kind} {size}", flush=True)
        default = getattr(base, kind)[size]
        candidates = decode_candidates(default) if kind in DECODE_KINDS else ragged_candidates(default)
        found[kind][str(size)] = _changes(tune_attention(kind, size, candidates).settings, default)
    for rows in EXPERT_ROWS:
        print(f"experts {rows}", flush=True)
        default = base.experts[rows]
        found["experts"][str(rows)] = _changes(tune_experts(rows, experts_candidates(default)).settings, default)
    print("stream", flush=True)
    found["stream"] = _changes(tune_linear(1, stream_candidates(base.stream)).settings, base.stream)
    print("skinny", flush=True)
    (few,) = base.skinny
    found["skinny"] = [_changes(tune_linear(8, skinny_candidates(few)).settings, few)]
    out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
