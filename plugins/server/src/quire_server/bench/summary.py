"""What a load came to: percentiles of times, throughput, and goodput under given limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from quire.errors import ConfigError
from quire_server.bench.load import Record, Run


class Spread(NamedTuple):
    """Milliseconds: the mean and three percentiles."""

    mean: float
    p50: float
    p90: float
    p99: float


TIMES: Mapping[str, Callable[[Record], float]] = {
    "ttft": lambda record: record.first_token_s,
    "tpot": lambda record: record.per_token_s,
    "e2e": lambda record: record.end_to_end_s,
}
"""What a limit may be set on: time to the first token, mean time of each later one, time to the last. ITL, the gap
between two events of a stream, is told beside them."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What was seen. A failed request counts in nothing but `num_failed`, and against the goodput."""

    num_done: int
    num_failed: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    times_ms: Mapping[str, Spread]
    good_requests_per_s: float | None
    good_share: float | None
    first_error: str | None


def summarize(run: Run, limits_ms: Mapping[str, float]) -> Summary:
    """Return what a run came to; goodput counts requests that keep all limits, which `parse_limits` read."""
    done = run.done
    spreads = {name: _spread([time(record) for record in done]) for name, time in TIMES.items()}
    gaps = _spread([gap for record in done for gap in record.gaps_s])
    good = sum(all(TIMES[name](record) * 1e3 <= limit for name, limit in limits_ms.items()) for record in done)
    errors = [record.error for record in run.records if record.error is not None]
    return Summary(
        num_done=len(done),
        num_failed=len(errors),
        seconds=run.seconds,
        prompt_tokens=sum(record.reply.num_prompt_tokens for record in done),
        output_tokens=sum(record.reply.num_tokens for record in done),
        requests_per_s=len(done) / run.seconds,
        output_tokens_per_s=run.output_tokens_per_s,
        times_ms={"ttft": spreads["ttft"], "itl": gaps, "tpot": spreads["tpot"], "e2e": spreads["e2e"]},
        good_requests_per_s=good / run.seconds if limits_ms else None,
        good_share=good / len(run.records) if limits_ms else None,
        first_error=errors[0] if errors else None,
    )


def parse_limits(given: Sequence[str]) -> dict[str, float]:
    """Return `["ttft:200", "tpot:50"]` as a mapping of milliseconds. Raise ConfigError."""
    limits = {}
    for text in given:
        name, _, value = text.partition(":")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = 0.0
        if name not in TIMES or limits[name] <= 0:
            raise ConfigError(f"--goodput is {text!r}; say {', '.join(TIMES)} and milliseconds, as in ttft:200")
    return limits


def _spread(seconds: Sequence[float]) -> Spread:
    if not seconds:
        return Spread(0.0, 0.0, 0.0, 0.0)
    values = np.asarray(seconds) * 1e3
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return Spread(float(values.mean()), p50, p90, p99)
