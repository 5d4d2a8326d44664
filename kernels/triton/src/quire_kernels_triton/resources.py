"""What every kernel needs of a GPU, for a model's shapes, compiled on any machine.

    python -m quire_kernels_triton.resources cuda:90 hip:gfx942

prints registers, spills and shared memory, and exits 1 if a kernel asks for more shared memory than there is. `--json`
prints one object a line instead: that is how `reports/resources.jsonl` is written (`nox -s resources`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import torch

from quire.ops.spec import AttentionBatch
from quire_kernels_triton import activations, cache, embedding, norms, rotary, sampling, step
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.cross_compile import SHARED_LIMITS, Resources, dry_run, family_of, parse_target
from quire_kernels_triton.linear import Linear
from quire_kernels_triton.moe import MixtureOfExperts
from quire_kernels_triton.registry import WITHOUT_FLOAT8
from quire_kernels_triton.tuning import Target


class Shape(NamedTuple):
    """A decoder's sizes."""

    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    hidden_size: int = 1024
    intermediate_size: int = 3072
    vocab_size: int = 151936
    block_size: int = 16
    max_model_len: int = 40960
    num_experts: int = 128
    top_k: int = 8
    expert_size: int = 768


QWEN3_600M = Shape()
OTHER_HEAD_DIMS = (64, 256)
Launch = tuple[str, Callable[[], Any]]


class Launches:
    """Every op, called on uninitialised memory: fit for a dry run alone."""

    def __init__(self, target: Target, shape: Shape = QWEN3_600M, dtype: torch.dtype = torch.bfloat16) -> None:
        self._target = target
        self._shape = shape
        self._dtype = dtype

    def all(self) -> Iterator[Launch]:
        """Yield every op by name."""
        yield from self.attention()
        yield from self.linear()
        yield from self.experts()
        yield from self.elementwise()
        yield from self.sampling()

    def attention(self) -> Iterator[Launch]:
        """Yield decode of one row and of many, and a mixed batch, for every size of heads and for a cache of 8 bits."""
        yield from self._attention("", self._shape.head_dim, self._dtype)
        for head_dim in OTHER_HEAD_DIMS:
            yield from self._attention(f", heads of {head_dim}", head_dim, self._dtype)
        if self._target.family not in WITHOUT_FLOAT8:
            yield from self._attention(", fp8 cache", self._shape.head_dim, torch.float8_e4m3fn)

    def _attention(self, variant: str, head_dim: int, kv_dtype: torch.dtype) -> Iterator[Launch]:
        shape, attend = self._shape, PagedAttention(self._target)
        caches = [torch.empty(64, shape.num_kv_heads, shape.block_size, head_dim, dtype=kv_dtype) for _ in range(2)]
        for name, rows, tokens in (("decode 1", 1, 1), ("decode 256", 256, 256), ("mixed 2048", 256, 2048)):
            batch = AttentionBatch(
                self._integers(rows + 1), self._integers(rows), self._integers(rows, 16), self._longs(tokens),
                1 if rows == tokens else tokens, shape.max_model_len,
            )  # fmt: skip
            query = self._floats(tokens, shape.num_heads, head_dim)
            yield f"attention {name}{variant}", lambda query=query, batch=batch: attend(query, *caches, batch, 0.1)

    def linear(self) -> Iterator[Launch]:
        """Yield the products of a layer for one token and for a few."""
        shape, linear = self._shape, Linear(self._target)
        heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        gain = self._floats(shape.hidden_size)
        for tokens in (1, 16):
            x = self._floats(tokens, shape.hidden_size)
            for name, rows, gate in (("qkv", heads, None), ("gate_up", 2 * shape.intermediate_size, "silu_and_mul")):
                weight = self._floats(rows, shape.hidden_size)
                yield (
                    f"norm, {name} {tokens}",
                    lambda x=x, weight=weight, gate=gate: linear.norm_linear(x, x, gain, 1e-6, weight, None, gate),
                )
            down = self._floats(shape.hidden_size, shape.intermediate_size)
            wide = self._floats(tokens, shape.intermediate_size)
            yield f"down {tokens}", lambda wide=wide, down=down: linear.linear(wide, down)

    def experts(self) -> Iterator[Launch]:
        """Yield a mixture of experts for one token, and for few and many of each expert."""
        shape, compute = self._shape, MixtureOfExperts(self._target)
        gate_up = self._floats(shape.num_experts, 2 * shape.expert_size, shape.hidden_size)
        down = self._floats(shape.num_experts, shape.hidden_size, shape.expert_size)
        for tokens in (1, 256, 512, 1024, 4096):
            x, shares = self._floats(tokens, shape.hidden_size), torch.empty(tokens, shape.top_k)
            chosen = self._longs(tokens, shape.top_k)
            yield f"moe {tokens}", lambda x=x, shares=shares, chosen=chosen: compute(x, shares, chosen, gate_up, down)

    def elementwise(self) -> Iterator[Launch]:
        """Yield norms, gates, rotation and cache writes."""
        shape = self._shape
        x, gain = self._floats(4, shape.hidden_size), self._floats(shape.hidden_size)
        key = self._floats(4, shape.num_kv_heads, shape.head_dim)
        query, slots = self._floats(4, shape.num_heads, shape.head_dim), self._longs(4)
        caches = [self._floats(64, shape.num_kv_heads, shape.block_size, shape.head_dim) for _ in range(2)]
        table = torch.empty(64, shape.head_dim)
        norm = self._floats(shape.head_dim)
        qkv = self._floats(4, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim)
        yield "rms_norm", lambda: norms.rms_norm(x, gain, 1e-6)
        yield "add_rms_norm", lambda: norms.add_rms_norm(x, x, gain, 1e-6)
        yield "embedding", lambda: embedding.embedding(slots, self._floats(64, shape.hidden_size))
        yield "rope", lambda: rotary.rope(query, key, slots, table)
        yield "kv_write", lambda: cache.kv_write(key, key, *caches, slots)
        yield "block_copy", lambda: cache.block_copy(*caches, self._longs(2, 2))
        yield "qkv_rope_write", lambda: rotary.qkv_rope_write(qkv, slots, table, norm, norm, 1e-6, *caches, slots)
        if self._target.family not in WITHOUT_FLOAT8:
            narrow = [item.to(torch.float8_e4m3fn) for item in caches]
            yield "kv_write, fp8 cache", lambda: cache.kv_write(key, key, *narrow, slots)
            yield (
                "qkv_rope_write, fp8 cache",
                lambda: rotary.qkv_rope_write(qkv, slots, table, norm, norm, 1e-6, *narrow, slots),
            )
        for op in activations.KINDS:
            yield op, lambda op=op: activations.gated(op)(self._floats(4, 2 * shape.intermediate_size))

    def sampling(self) -> Iterator[Launch]:
        """Yield the sampler's two passes, and the penalties."""
        logits = torch.empty(4, self._shape.vocab_size)
        column, counts = torch.empty(4), self._integers(4, self._shape.vocab_size)
        longs = self._longs(4)
        sample = sampling.Sample(self._target)
        ks, columns = self._integers(4), self._integers(4)
        rows = self._integers(5, 100)
        settings = (column, ks, column, column, longs)
        yield "sample", lambda: sample.sample(logits, *settings, longs)
        yield "draw_tokens", lambda: sample.draw_tokens(logits, *settings, columns, columns, rows)
        yield "gather_step", lambda: step.gather_step(rows, rows, columns, columns, columns, 16, 6)
        hidden = self._floats(4, self._shape.hidden_size)
        yield "select_rows", lambda: step.select_rows(hidden, columns)
        yield "penalties", lambda: sampling.apply_penalties(logits, counts != 0, counts, column, column, column)

    def _floats(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self._dtype)

    def _integers(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32)

    def _longs(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int64)


def measure(
    target_name: str, only: Collection[str] = (), num_processors: int = 132, dependent: bool = False
) -> Iterator[tuple[str, Resources]]:
    """Compile every launch, or `only` those named, for a target such as "cuda:90"; yield its name and needs."""
    target = parse_target(target_name)
    for name, launch in Launches(Target(family_of(target), num_processors, dependent)).all():
        if only and name not in only:
            continue
        with dry_run(target) as found:
            launch()
        yield from ((name, needs) for needs in found)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", action="append", default=[], metavar="LAUNCH", help="this alone; repeatable")
    parser.add_argument("--dependent", action="store_true", help="kernels start before the one ahead has ended")
    options = parser.parse_args()
    too_large = 0
    for target in options.targets:
        limit = SHARED_LIMITS[family_of(parse_target(target))]
        for name, needs in measure(target, options.only, dependent=options.dependent):
            too_large += needs.shared_bytes > limit
            line = {"target": target, "launch": name, "shared_limit": limit, **needs._asdict()}
            print(json.dumps(line) if options.json else f"{target:12} {name:36} {needs}", flush=True)
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
