"""Every metric of /metrics, under vLLM's name. The reference page in docs is made from this list."""

from __future__ import annotations

from typing import Literal, NamedTuple

from quire.scheduling.stats import STEP_SIZES

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error")
SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")

TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 40, 80)
REQUEST_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
NUM_CHOICES = (1, 2, 5, 10, 20)


class Definition(NamedTuple):
    """One metric. `stat`: the field of SchedulerStats that it is read from when somebody asks; the others are counted
    as outputs pass by. `old`: what vLLM called it before, given too, so that older dashboards work."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    bounds: tuple[float, ...] = ()
    stat: str = ""
    old: str = ""
    labels: tuple[str, ...] = ()  # beside LABELS


def _gauge(name: str, text: str, stat: str, old: str = "") -> Definition:
    return Definition(name, "gauge", text, stat=stat, old=old)


def _counter(name: str, text: str, stat: str = "", old: str = "") -> Definition:
    return Definition(name, "counter", text, stat=stat, old=old)


def _histogram(name: str, text: str, bounds: tuple[float, ...], old: str = "") -> Definition:
    return Definition(name, "histogram", text, bounds, old=old)


CACHE_CONFIG = Definition(
    "cache_config_info",
    "gauge",
    "The KV cache, as labels; always 1.",
    labels=("block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching", "max_model_len", "backend"),
)
SLEEP_STATE = Definition("engine_sleep_state", "gauge", "1 for the state of the engine.", labels=("sleep_state",))
SUCCESS = Definition("request_success", "counter", "Requests by how they ended.", labels=("finished_reason",))
STEP_TOKENS = Definition(
    "iteration_tokens_total", "histogram", "Tokens computed in a step of the engine.", STEP_SIZES, stat="step_sizes"
)

DEFINITIONS = (
    _gauge("num_requests_running", "Requests in the device batch.", "num_running"),
    _gauge("num_requests_waiting", "Requests in the queue.", "num_waiting"),
    _gauge("kv_cache_usage_perc", "Share of KV blocks in use, 1 is all.", "kv_usage", old="gpu_cache_usage_perc"),
    SLEEP_STATE,
    CACHE_CONFIG,
    _counter("num_preemptions", "Requests that lost their blocks and began again.", "num_preemptions"),
    _counter("prefix_cache_queries", "Tokens looked up.", "num_prefix_queries", "gpu_prefix_cache_queries"),
    _counter("prefix_cache_hits", "Tokens found.", "num_prefix_hits", "gpu_prefix_cache_hits"),
    _counter("prompt_tokens", "Prompt tokens computed, or found in the cache."),
    _counter("prompt_tokens_cached", "Prompt tokens found in the cache."),
    _counter("generation_tokens", "Tokens generated."),
    SUCCESS,
    STEP_TOKENS,
    _histogram("request_prompt_tokens", "Prompt tokens of a request.", COUNTS),
    _histogram("request_prefill_kv_computed_tokens", "Prompt tokens of a request not found in the cache.", COUNTS),
    _histogram("request_generation_tokens", "Generated tokens of a request.", COUNTS),
    _histogram("request_max_num_generation_tokens", "Tokens of the longest of a request's completions.", COUNTS),
    _histogram("request_params_n", "n of a request.", NUM_CHOICES),
    _histogram("request_params_max_tokens", "max_tokens of a request.", COUNTS),
    _histogram("time_to_first_token_seconds", "From arrival to the first token.", TTFT_S),
    _histogram(
        "inter_token_latency_seconds",
        "Between tokens of a stream; requests that do not stream are not in it.",
        TOKEN_S,
        old="time_per_output_token_seconds",
    ),
    _histogram("request_time_per_output_token_seconds", "A request's mean time for a token after the first.", TOKEN_S),
    _histogram("e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_S),
    _histogram("request_queue_time_seconds", "From the engine's queue to the first step.", REQUEST_S),
    _histogram("request_prefill_time_seconds", "From the first step to the first token.", REQUEST_S),
    _histogram("request_decode_time_seconds", "From the first to the last token.", REQUEST_S),
    _histogram("request_inference_time_seconds", "From the first step to the last token.", REQUEST_S),
)


def reference_lines() -> list[str]:
    """Return the reference page's lines."""
    lines = ["| metric | kind | what | labels |", "| --- | --- | --- | --- |"]
    for item in DEFINITIONS:
        names = f"`vllm:{item.name}`" + (f", older name `vllm:{item.old}`" if item.old else "")
        labels = ", ".join(f"`{label}`" for label in item.labels)
        lines.append(f"| {names} | {item.kind} | {item.text} | {labels} |")
    return lines
