"""Print what each kernel reaches beside what the machine can do, measured in the same run.

    python bench/kernels.py [--variant avx2] [--threads 2] [--only linear,attention,sample,layer]

Memory-bound kernels show GB/s beside the read rate, compute-bound ones GFLOP/s beside torch's fp32 product. Weights and
caches are larger than the last-level cache and lie in huge pages. The best of several runs counts; on a machine with
other work, repeat it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from quire.ops.spec import AttentionBatch
from quire_kernels_cpu.kernels import PANELS, STREAM, WIDEN, CpuKernels
from quire_kernels_cpu.library import load_library
from quire_kernels_cpu.memory import HugePageAllocator

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
POOL_BYTES = 256 << 20


class Limits(NamedTuple):
    """What the machine gives: reading memory, GB/s, and torch's fp32 product, GFLOP/s."""

    read: float
    sgemm: float


class Bench:
    """Kernels, a pool of memory to cut weights from, and the limits."""

    def __init__(self, variant: str | None, threads: int, repeats: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.repeats = repeats
        self.kernels = CpuKernels(load_library(variant))
        self.pool = HugePageAllocator().allocate("pool", (POOL_BYTES,), torch.uint8)
        self.pool.fill_(0)
        self.limits = self._limits()

    def seconds(self, *functions: Callable[[], object]) -> list[float]:
        """Return the best time of each function; they take turns, so that all see the same machine."""
        best = [float("inf")] * len(functions)
        for _ in range(self.repeats):
            for index, function in enumerate(functions):
                start = time.perf_counter()
                function()
                best[index] = min(best[index], time.perf_counter() - start)
        return best

    def read(self, tensors: Sequence[torch.Tensor]) -> None:
        """Read them once: the limit of a kernel that streams them."""
        for tensor in tensors:
            self.kernels.library.read_memory(tensor.view(torch.float32), self.threads)

    def weights(self, shape: tuple[int, int], dtype: torch.dtype, max_bytes: int = POOL_BYTES) -> list[torch.Tensor]:
        """Return as many weights as the pool holds, so that none is in a cache when its turn comes."""
        size = shape[0] * shape[1] * dtype.itemsize
        count = max(1, min(POOL_BYTES, max_bytes) // size)
        flat = self.pool[: count * size].view(dtype)
        flat.fill_(0.01)
        return list(flat.view(count, *shape))

    def _limits(self) -> Limits:
        floats = self.pool.view(torch.float32)
        a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
        read, product = self.seconds(
            lambda: self.kernels.library.read_memory(floats, self.threads), lambda: functional.linear(a, b)
        )
        return Limits(POOL_BYTES / read / 1e9, 2 * 1024**3 / product / 1e9)


def bench_linear(bench: Bench) -> None:
    """In panels, streamed, widened and torch's product, for few and many rows."""
    for dtype in DTYPES:
        for shape in ((2304, 768), (768, 2048), (4096, 1024), (4096, 4096)):
            for rows in (1, 2, 4, 8, 16, 32, 64, 256):
                _bench_product(bench, dtype, shape, rows)


def _bench_product(bench: Bench, dtype: torch.dtype, shape: tuple[int, int], rows: int) -> None:
    weights = bench.weights(shape, dtype, POOL_BYTES if rows <= 16 else 24 << 20)
    x = torch.randn(rows, shape[1]).to(dtype)
    times = bench.seconds(
        lambda: [_product(bench.kernels, x, w, STREAM) for w in weights],
        lambda: [_product(bench.kernels, x, w, WIDEN) for w in weights],
        lambda: [_product(bench.kernels, x, w, PANELS) for w in weights],
        lambda: [functional.linear(x, w) for w in weights[: 1 if dtype is torch.float16 else None]],
        lambda: bench.read(weights),
    )
    gigabytes, flops = weights[0].nbytes * len(weights) / 1e9, 2 * rows * weights[0].numel() * len(weights) / 1e9
    stream, widen, panels, by_torch, reading = times
    torch_flops = flops / len(weights) if dtype is torch.float16 else flops  # a hundred times slower: one is enough
    print(
        f"linear {_name(dtype)} N={shape[0]} K={shape[1]} M={rows}: panels {gigabytes / panels:.1f} GB/s "
        f"({reading / panels:.0%} of reading them) {flops / panels:.0f} GFLOP/s; not packed: "
        f"streamed {flops / stream:.0f}, widened {flops / widen:.0f}, torch {torch_flops / by_torch:.0f} GFLOP/s"
    )


def _product(kernels: CpuKernels, x: torch.Tensor, weight: torch.Tensor, form: int) -> None:
    """Time is the same whatever the order of the weight's elements."""
    kernels.run_linear(x, weight, None, x.new_empty(x.shape[0], weight.shape[0]), form)


def bench_attention(bench: Bench) -> None:
    """Decode, GB/s of keys and values read, and prefill, GFLOP/s of the scores that count."""
    workloads = {
        "decode 1 x 8192": [(1, 8192)],
        "decode 32 x 1024": [(1, 1024)] * 32,
        "prefill 1024": [(1024, 1024)],
        "chunk 256 of 4096": [(256, 4096)],
    }
    for dtype in DTYPES:
        for num_heads, num_kv_heads, head_dim in ((12, 4, 64), (16, 8, 128), (32, 8, 128)):
            for label, rows in workloads.items():
                _bench_rows(bench, dtype, (num_heads, num_kv_heads, head_dim), label, rows)


def _bench_rows(
    bench: Bench, dtype: torch.dtype, heads: tuple[int, int, int], label: str, rows: list[tuple[int, int]]
) -> None:
    num_heads, num_kv_heads, head_dim = heads
    batch, num_blocks = _batch(rows, block_size=16)
    size = 2 * num_blocks * num_kv_heads * 16 * head_dim
    cache = bench.pool[: size * dtype.itemsize].view(dtype).view(2, num_blocks, num_kv_heads, 16, head_dim)
    cache.fill_(0.01)
    query = torch.randn(int(batch.query_start[-1]), num_heads, head_dim).to(dtype)
    time_s, reading = bench.seconds(
        lambda: bench.kernels.paged_attention(query, cache[0], cache[1], batch, head_dim**-0.5),
        lambda: bench.read([cache]),
    )
    read = sum(seq_len for _, seq_len in rows) * num_kv_heads * head_dim * 2 * dtype.itemsize / 1e9
    flops = sum(4 * num_heads * head_dim * (n * seq_len - n * (n - 1) // 2) for n, seq_len in rows) / 1e9
    print(
        f"attention {_name(dtype)} heads {num_heads}/{num_kv_heads}x{head_dim} {label}: {time_s * 1e3:.2f} ms, "
        f"{read / time_s:.1f} GB/s ({reading / time_s:.0%} of reading it), "
        f"{flops / time_s:.0f} GFLOP/s ({flops / time_s / bench.limits.sgemm:.0%} of sgemm)"
    )


def _batch(rows: list[tuple[int, int]], block_size: int) -> tuple[AttentionBatch, int]:
    """Rows over blocks in random order."""
    owned = [-(-seq_len // block_size) for _, seq_len in rows]
    block_table = torch.zeros(len(rows), max(owned), dtype=torch.int32)
    for row, ids in enumerate(torch.randperm(sum(owned)).int().split(owned)):
        block_table[row, : len(ids)] = ids
    starts = torch.tensor([0, *(n for n, _ in rows)]).cumsum(0).int()
    batch = AttentionBatch(
        query_start=starts,
        seq_lens=torch.tensor([seq_len for _, seq_len in rows], dtype=torch.int32),
        block_table=block_table,
        slots=torch.zeros(int(starts[-1]), dtype=torch.int64),
        max_query_len=max(n for n, _ in rows),
        max_seq_len=max(seq_len for _, seq_len in rows),
    )
    return batch, sum(owned)


class SampleSetting(NamedTuple):
    label: str
    temperature: float
    top_k: int
    top_p: float


def bench_sample(bench: Bench) -> None:
    """Microseconds a row, greedy, drawn, and truncated."""
    settings = (
        SampleSetting("greedy", 0.0, 0, 1.0),
        SampleSetting("drawn", 1.0, 0, 1.0),
        SampleSetting("top-k 50, top-p 0.95", 0.8, 50, 0.95),
        SampleSetting("top-p 0.95", 1.0, 0, 0.95),
    )
    for vocab_size in (32_768, 151_936, 262_144):
        for setting in settings:
            _bench_draw(bench, vocab_size, setting)


def _bench_draw(bench: Bench, vocab_size: int, setting: SampleSetting) -> None:
    rows = 8
    logits = torch.randn(rows, vocab_size) * 3
    temperature, top_p, min_p = (torch.full((rows,), value) for value in (setting.temperature, setting.top_p, 0.0))
    top_k, seeds = torch.full((rows,), setting.top_k, dtype=torch.int32), torch.arange(rows)
    (time_s,) = bench.seconds(lambda: bench.kernels.sample(logits, temperature, top_k, top_p, min_p, seeds, seeds))
    print(f"sample V={vocab_size} {setting.label}: {time_s / rows * 1e6:.0f} us a row")


def bench_layer(bench: Bench) -> None:
    """Microseconds a call of the ops between the products, for one token and 256."""
    for dtype in DTYPES:
        for rows in (1, 256):
            _bench_elementwise(bench, dtype, rows)


def _bench_elementwise(bench: Bench, dtype: torch.dtype, rows: int) -> None:
    kernels, calls = bench.kernels, range(50)
    x, residual, weight, gate = (torch.randn(rows, n).to(dtype) for n in (1024, 1024, 1024, 6144))

    def repeat(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in calls:
                function()

        return run

    norm, add, silu = bench.seconds(
        repeat(lambda: kernels.rms_norm(x, weight[0], 1e-6)),
        repeat(lambda: kernels.add_rms_norm(x, residual, weight[0], 1e-6)),
        repeat(lambda: kernels.silu_and_mul(gate)),
    )
    norm, add, silu = (time_s / len(calls) * 1e6 for time_s in (norm, add, silu))
    print(
        f"layer {_name(dtype)} T={rows}: rms_norm {norm:.1f} us, add_rms_norm {add:.1f} us, "
        f"silu_and_mul (I=3072) {silu:.1f} us"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


BENCHES = {"linear": bench_linear, "attention": bench_attention, "sample": bench_sample, "layer": bench_layer}


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default=",".join(BENCHES))
    arguments = parser.parse_args()
    bench = Bench(arguments.variant, arguments.threads, arguments.repeats)
    library, limits = bench.kernels.library, bench.limits
    print(f"{library.variant}, {library.compiler}, {bench.threads} threads, torch {torch.__version__}")
    print(f"limits: reading {limits.read:.1f} GB/s, torch sgemm {limits.sgemm:.0f} GFLOP/s")
    for name in arguments.only.split(","):
        BENCHES[name](bench)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
