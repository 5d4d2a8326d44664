"""Prometheus metrics under vLLM's names, so that dashboards made for it work unchanged.

What the engine knows is read from it when somebody asks; the rest is counted here as outputs pass by. That happens for
every token, on one thread: the histograms are plain lists, and Prometheus' own objects are made for an answer only.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from quire.outputs import RequestMetrics, RequestOutput
from quire.sampling import SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire_server.engine_client import EngineInfo
from quire_server.gate import State
from quire_server.metric_names import (
    CACHE_CONFIG,
    DEFINITIONS,
    FINISH_REASONS,
    LABELS,
    SLEEP_STATE,
    SLEEP_STATES,
    STEP_TOKENS,
    SUCCESS,
    Definition,
)


class Histogram:
    """Counts values by the first bound that is not below them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class EngineState(NamedTuple):
    """What is asked of the engine for an answer; `stats` None: it is dead, and only its past is told. `gauges` are the
    backend's own."""

    stats: SchedulerStats | None
    state: State = "serving"
    gauges: Mapping[str, float] = MappingProxyType({})


class Metrics(Collector):
    """All metrics of one server, in a registry of their own."""

    def __init__(self, info: EngineInfo, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.histograms = {item.name: Histogram(item.bounds) for item in DEFINITIONS if item.kind == "histogram"}
        self.counts = Counter[str]()
        self.finished = Counter[str]()
        self._labels = (model_name, "0")
        self._info = info
        self._engine = EngineState(None)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def watch(self, prompt_len: int, params: SamplingParams) -> RequestWatch:
        """Begin to count one request."""
        self.histograms["request_params_n"].observe(params.n)
        if params.max_tokens is not None:
            self.histograms["request_params_max_tokens"].observe(params.max_tokens)
        return RequestWatch(self, prompt_len)

    def render(self, engine: EngineState) -> bytes:
        """Return Prometheus' text format."""
        self._engine = engine
        return generate_latest(self.registry)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for item in DEFINITIONS:
            if not item.stat or self._engine.stats is not None:
                yield self._family(item, item.name)
                if item.old:
                    yield self._family(item, item.old)
        for name, value in self._engine.gauges.items():
            gauge = GaugeMetricFamily(name, f"As backend {self._info.backend} measures it.", labels=LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge

    def _family(self, item: Definition, name: str) -> Metric:
        name, labels = f"vllm:{name}", (*LABELS, *item.labels)
        match item.kind:
            case "histogram":
                bins, total = self._bins(item)
                found = HistogramMetricFamily(name, item.text, labels=labels)
                found.add_metric(self._labels, list(_cumulated(item.bounds, bins)), total)
                return found
            case "gauge":
                gauge = GaugeMetricFamily(name, item.text, labels=labels)
                for values, number in self._samples(item):
                    gauge.add_metric((*self._labels, *values), number)
                return gauge
        counter = CounterMetricFamily(name, item.text, labels=labels)
        for values, number in self._samples(item):
            counter.add_metric((*self._labels, *values), number)
        return counter

    def _bins(self, item: Definition) -> tuple[Sequence[int], float]:
        stats = self._engine.stats
        if item is STEP_TOKENS and stats is not None:
            return stats.step_sizes, stats.num_scheduled_tokens
        found = self.histograms[item.name]
        return found.counts, found.total

    def _samples(self, item: Definition) -> Iterable[tuple[tuple[str, ...], float]]:
        """Return the values of the labels that a metric has of its own, with its number."""
        if item.stat:
            return [((), getattr(self._engine.stats, item.stat))]
        if item is SUCCESS:
            return [((reason,), self.finished[reason]) for reason in FINISH_REASONS]
        if item is SLEEP_STATE:
            current = "weights_offloaded" if self._engine.state == "asleep" else "awake"
            return [((name,), name == current) for name in SLEEP_STATES]
        if item is CACHE_CONFIG:
            return [(self._cache_config(), 1)]
        return [((), self.counts[item.name])]

    def _cache_config(self) -> tuple[str, ...]:
        info = self._info
        values = (
            info.block_size,
            info.num_blocks,
            info.kv_dtype,
            info.prefix_caching,
            info.max_model_len,
            info.backend,
        )
        return tuple(map(str, values))


class RequestWatch:
    """Counts one request as its outputs pass by. Both processes' clocks are the machine's monotonic one."""

    __slots__ = ("_arrival", "_last", "_last_time", "_lengths", "_metrics", "_prompt_len", "_reasons")

    def __init__(self, metrics: Metrics, prompt_len: int) -> None:
        self._metrics = metrics
        self._prompt_len = prompt_len
        self._arrival = time.monotonic()
        self._last: RequestOutput | None = None
        self._last_time = 0.0
        self._lengths: dict[int, int] = {}  # tokens by completion
        self._reasons: list[str] = []

    def note(self, output: RequestOutput) -> None:
        """Count an output of kind "delta", or the only one of kind "final_only"."""
        now = time.monotonic()
        if self._last is None:
            self._note_first(output)
        for item in output.outputs:
            self._count(item.index, len(item.token_ids), now)
            if item.finish_reason is not None:
                self._reasons.append(item.finish_reason)
        self._last, self._last_time = output, now

    def note_tokens(self, index: int, num_tokens: int) -> None:
        """Count tokens of a completion that came without an output, behind the first."""
        now = time.monotonic()
        self._count(index, num_tokens, now)
        self._last_time = now

    def end(self) -> None:
        """Count how it ended: one that was left before its end was aborted."""
        last = self._last
        if last is None or not last.finished:
            self._reasons.append("abort")
        else:
            self._note_lengths()
            self._note_times(last.metrics)
        self._metrics.finished.update(self._reasons)

    def _count(self, index: int, num_tokens: int, now: float) -> None:
        metrics, length = self._metrics, self._lengths.get(index, 0)
        metrics.counts["generation_tokens"] += num_tokens
        self._lengths[index] = length + num_tokens
        if num_tokens and length:
            seconds = (now - self._last_time) / num_tokens
            metrics.histograms["inter_token_latency_seconds"].observe(seconds, num_tokens)

    def _note_first(self, output: RequestOutput) -> None:
        counts, histograms = self._metrics.counts, self._metrics.histograms
        counts["prompt_tokens"] += self._prompt_len
        counts["prompt_tokens_cached"] += output.num_cached_tokens
        histograms["request_prompt_tokens"].observe(self._prompt_len)
        histograms["request_prefill_kv_computed_tokens"].observe(self._prompt_len - output.num_cached_tokens)
        if (first := output.metrics.first_token_time) is not None:
            histograms["time_to_first_token_seconds"].observe(first - self._arrival)

    def _note_lengths(self) -> None:
        histograms, lengths = self._metrics.histograms, self._lengths.values()
        histograms["request_generation_tokens"].observe(sum(lengths))
        histograms["request_max_num_generation_tokens"].observe(max(lengths, default=0))

    def _note_times(self, times: RequestMetrics) -> None:
        histograms = self._metrics.histograms
        scheduled, first, finished = times.scheduled_time, times.first_token_time, times.finished_time
        if scheduled is None or first is None or finished is None:
            return
        histograms["e2e_request_latency_seconds"].observe(finished - self._arrival)
        histograms["request_queue_time_seconds"].observe(scheduled - times.arrival_time)
        histograms["request_prefill_time_seconds"].observe(first - scheduled)
        histograms["request_decode_time_seconds"].observe(finished - first)
        histograms["request_inference_time_seconds"].observe(finished - scheduled)
        if (longest := max(self._lengths.values(), default=0)) > 1:
            histograms["request_time_per_output_token_seconds"].observe((finished - first) / (longest - 1))


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Yield each bound, as text, with how many values are not above it."""
    total = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        yield ("+Inf" if bound == float("inf") else str(float(bound))), total
