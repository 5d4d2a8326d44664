"""Times on the device: launches captured in one graph, over inputs that rotate so that no cache serves them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

COLD_BYTES = 256 << 20  # rotate over at least this much; an H200's second-level cache holds 60 MB


def median_us(calls: Sequence[Callable[[], Any]], launches: int = 0, replays: int = 7) -> float:
    """Return the median time of one call, in microseconds, of at least `launches` calls in turn in one graph."""
    count = max(launches, len(calls), 20)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())  # the inputs may still be under way there
    with torch.cuda.stream(side):
        for call in calls[:3]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for call in itertools.islice(itertools.cycle(calls), count):
            call()
    graph.replay()
    return statistics.median(replay_us(graph) for _ in range(replays)) / count


def copies_for(num_bytes: int) -> int:
    """Return how many sets of inputs of this size make every launch find its own set cold."""
    return max(1, min(64, -(-COLD_BYTES // max(num_bytes, 1))))


def ceilings() -> dict[str, float]:
    """Return this device's copy and read bandwidth in GB/s, and bf16 matrix rate in TFLOP/s, on random data."""
    source = torch.randn(1 << 29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    # A kernel, because a captured copy_ becomes a copy node, which here moves a third less.
    copy = median_us([lambda: torch.mul(source, 2, out=target)])
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = median_us([lambda: torch.mm(left, right)])
    return {"copy GB/s": 2 * source.nbytes / copy / 1e3, "matmul TFLOP/s": 2 * 8192**3 / product / 1e6}


def replay_us(graph: torch.cuda.CUDAGraph) -> float:
    """Return the time of one replay, in microseconds."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3
