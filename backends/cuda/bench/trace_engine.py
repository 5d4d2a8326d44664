"""What the device does in the steps of an engine, kernel by kernel, and how long it waits for the host."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from check_engine import make_prompts, make_workload, run

from quire import LLM

GRAPH_GAP_US = 5.0  # kernels of one graph follow each other sooner than this


def trace(llm: LLM) -> None:
    """Print what the device does in a decode step of few and of many rows, and how long it waits for the host."""
    for batch in (1, 32, 64, 256):
        prompts, steps = make_prompts(batch, 10000, 512), 40
        run(llm, prompts, [steps] * batch)
        spans = _profiled(llm, prompts, [steps] * batch)
        ends = _step_ends(spans)
        print(_decode_times(spans, batch))
        _print_kernels([span for span in spans if ends[-11] <= span.start < ends[-1]], 14)


def profile(llm: LLM) -> None:
    """Print what the device does in the whole of the throughput's workload, and in steps at every tenth of it."""
    prompts, counts = make_workload()
    for _ in range(2):
        run(llm, prompts, counts)
    spans = _profiled(llm, prompts, counts)
    ends = _step_ends(spans)
    print(f"  {len(ends)} steps in {(ends[-1] - spans[0].start) / 1e3:.0f} ms; the whole:")
    _print_kernels(spans, 24)
    for tenth in range(10):
        at = max(1, len(ends) * tenth // 10)
        begin, end = ends[at - 1], ends[at + 2]
        print(f"  steps {at} to {at + 2}, {(end - begin) / 3:.0f} us each, kernels of all three:")
        _print_kernels([span for span in spans if begin <= span.start < end], 12)


def _profiled(llm: LLM, prompts: list[list[int]], counts: list[int]) -> list[Span]:
    """Return what the device does in a run, in the order of time."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    torch.cuda.synchronize()
    with torch_profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run(llm, prompts, counts)
    return sorted(
        Span(event.start_ns() / 1e3, (event.start_ns() + event.duration_ns()) / 1e3, event.name())
        for event in profiler.profiler.kineto_results.events()
        if event.device_type().name == "CUDA"
    )


def _step_ends(spans: list[Span]) -> list[float]:
    """Return when steps end: each with one launch of `choose_kernel`."""
    return [span.end for span in spans if "choose_kernel" in span.name]


def _print_kernels(spans: list[Span], limit: int) -> None:
    times: dict[str, list[float]] = {}
    for span in spans:
        times.setdefault(span.name[:90], []).append(span.end - span.start)
    busy, latest = 0.0, 0.0
    for span in spans:
        busy += max(0.0, span.end - max(span.start, latest))
        latest = max(latest, span.end)
    print(f"    busy {busy / 1e3:.1f} of {(latest - spans[0].start) / 1e3:.1f} ms")
    for name, took in sorted(times.items(), key=lambda item: -sum(item[1]))[:limit]:
        print(f"    {sum(took) / 1e3:9.2f} ms {len(took):7} x {statistics.median(took):8.1f} us  {name}")


class Span(NamedTuple):
    """One thing that the device did, in microseconds."""

    start: float
    end: float
    name: str


def _decode_times(spans: list[Span], batch: int) -> str:
    """Tell of the second half of a run, which is decode alone, how long a step takes and how long nothing runs.

    The gaps between kernels of one graph count as work.
    """
    ends = _step_ends(spans)
    first, last = ends[len(ends) // 2], ends[-1]
    latest, idle = first, 0.0
    for span in spans:
        if first <= span.start <= last:
            idle += span.start - latest if span.start - latest > GRAPH_GAP_US else 0.0
            latest = max(latest, span.end)
    steps = len(ends) - len(ends) // 2 - 1
    return f"batch {batch}: a step takes {(last - first) / steps:.0f} us, of which nothing runs for {idle / steps:.0f}"
