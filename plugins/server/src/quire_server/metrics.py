"""Prometheus metrics under vLLM's names, so that dashboards made for it work unchanged.

Gauges and scheduler totals are read from the engine when somebody asks; the rest is counted as outputs pass by.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from quire.outputs import RequestOutput
from quire.sampling import SamplingParams
from quire.scheduling.stats import SchedulerStats
from quire_server.engine_client import EngineInfo

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error")
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
REQUEST_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
NUM_CHOICES = (1, 2, 5, 10, 20)


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self, info: EngineInfo, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = (model_name, "0")
        self._state = _EngineState(self._labels, info)
        self.registry.register(self._state)
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens computed or found in the cache.")
        self._cached_tokens = self._counter("prompt_tokens_cached", "Prompt tokens found in the prefix cache.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        success = Counter(
            "vllm:request_success", "Requests by how they ended.", (*LABELS, "finished_reason"), registry=self.registry
        )
        self._finished = {reason: success.labels(*self._labels, reason) for reason in FINISH_REASONS}
        self._ttft = self._histogram("time_to_first_token_seconds", "From arrival to the first token.", TTFT_S)
        self._itl = self._histogram("inter_token_latency_seconds", "Between tokens of one stream.", TOKEN_S)
        self._tpot = self._histogram(
            "request_time_per_output_token_seconds", "A request's mean time per token after the first.", TOKEN_S
        )
        self._e2e = self._histogram("e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_S)
        self._decode = self._histogram("request_decode_time_seconds", "From the first to the last token.", REQUEST_S)
        self._prompt_len = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", COUNTS)
        self._output_len = self._histogram("request_generation_tokens", "Generated tokens of a request.", COUNTS)
        self._max_tokens = self._histogram("request_params_max_tokens", "max_tokens of a request.", COUNTS)
        self._n = self._histogram("request_params_n", "n of a request.", NUM_CHOICES)

    def watch(self, prompt_len: int, params: SamplingParams) -> RequestWatch:
        """Begin to count one request."""
        self._n.observe(params.n)
        if params.max_tokens is not None:
            self._max_tokens.observe(params.max_tokens)
        return RequestWatch(self, prompt_len)

    def render(self, stats: SchedulerStats | None) -> bytes:
        """Return Prometheus' text format; `stats` None: the engine is dead and only its past is told."""
        self._state.stats = stats
        return generate_latest(self.registry)

    # -- what a watch reports ------------------------------------------------------------------------------------------

    def note_first(self, output: RequestOutput, prompt_len: int) -> None:
        times = output.metrics
        self._prompt_tokens.inc(prompt_len)
        self._cached_tokens.inc(output.num_cached_tokens)
        self._prompt_len.observe(prompt_len)
        if times.first_token_time is not None:
            self._ttft.observe(times.first_token_time - times.arrival_time)

    def note_tokens(self, num_tokens: int, seconds: float | None) -> None:
        self._generation_tokens.inc(num_tokens)
        if seconds is not None and num_tokens:
            self._itl.observe(seconds / num_tokens)

    def note_end(self, output: RequestOutput | None, reasons: Sequence[str], num_tokens: int) -> None:
        for reason in reasons:
            self._finished[reason].inc()
        times = output.metrics if output is not None else None
        if times is None or times.finished_time is None or times.first_token_time is None:
            return
        self._output_len.observe(num_tokens)
        self._e2e.observe(times.finished_time - times.arrival_time)
        self._decode.observe(times.finished_time - times.first_token_time)
        if num_tokens > 1:
            self._tpot.observe((times.finished_time - times.first_token_time) / (num_tokens - 1))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, LABELS, registry=self.registry).labels(*self._labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(f"vllm:{name}", text, LABELS, buckets=buckets, registry=self.registry)
        return made.labels(*self._labels)


class RequestWatch:
    """Counts one request as its outputs pass by."""

    def __init__(self, metrics: Metrics, prompt_len: int) -> None:
        self._metrics = metrics
        self._prompt_len = prompt_len
        self._num_tokens = 0
        self._last: RequestOutput | None = None
        self._last_time = 0.0
        self._reasons: dict[int, str] = {}

    def note(self, output: RequestOutput) -> None:
        """Count an output of kind "delta", or the only one of kind "final_only"."""
        now, first = time.monotonic(), self._last is None
        if first:
            self._metrics.note_first(output, self._prompt_len)
        num_tokens = sum(len(item.token_ids) for item in output.outputs)
        self._metrics.note_tokens(num_tokens, None if first else now - self._last_time)
        self._num_tokens += num_tokens
        self._last, self._last_time = output, now
        self._reasons |= {item.index: item.finish_reason for item in output.outputs if item.finish_reason is not None}

    def end(self) -> None:
        """Count how it ended: one that was left before its end was aborted."""
        is_finished = self._last is not None and self._last.finished
        reasons = list(self._reasons.values()) if is_finished else [*self._reasons.values(), "abort"]
        self._metrics.note_end(self._last if is_finished else None, reasons, self._num_tokens)


class _EngineState(Collector):
    """What the engine says about itself at the moment."""

    def __init__(self, labels: tuple[str, str], info: EngineInfo) -> None:
        self.stats: SchedulerStats | None = None
        self._labels = labels
        self._info = info

    def collect(self) -> Iterator[Metric]:
        yield self._config()
        if self.stats is None:
            return
        yield self._gauge("num_requests_running", "Requests in the device batch.", self.stats.num_running)
        yield self._gauge("num_requests_waiting", "Requests in the queue.", self.stats.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of KV blocks in use, 1 is all.", self.stats.kv_usage)
        yield self._total("prefix_cache_queries", "Tokens looked up in the cache.", self.stats.num_prefix_queries)
        yield self._total("prefix_cache_hits", "Tokens found in the prefix cache.", self.stats.num_prefix_hits)
        yield self._total("num_preemptions", "Requests that lost their blocks.", self.stats.num_preemptions)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def _config(self) -> Metric:
        info = self._info
        names = (*LABELS, "block_size", "num_gpu_blocks", "backend", "max_model_len")
        found = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's size.", labels=names)
        found.add_metric(
            (*self._labels, str(info.block_size), str(info.num_blocks), info.backend, str(info.max_model_len)), 1
        )
        return found

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        found = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
        found.add_metric(self._labels, value)
        return found

    def _total(self, name: str, text: str, value: float) -> Metric:
        found = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
        found.add_metric(self._labels, value)
        return found
