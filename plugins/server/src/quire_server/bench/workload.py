"""Which requests arrive, and when: lengths drawn or read, token ids at random, gaps of a Poisson process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from quire.errors import ConfigError

FIRST_TOKEN, END_TOKEN = 3, 1000  # ids that every vocabulary has, and that begin or end nothing


class LengthLaw(NamedTuple):
    """A lognormal distribution of lengths in tokens: exp(N(log(median), sigma)), cut to [low, high]."""

    median: float
    sigma: float
    low: int
    high: int

    def draw(self, numbers: np.random.Generator, count: int) -> list[int]:
        drawn = numbers.lognormal(math.log(self.median), self.sigma, count)
        return [int(length) for length in drawn.clip(self.low, self.high)]


PROMPTS = LengthLaw(median=90, sigma=1.3, low=4, high=1024)
OUTPUTS = LengthLaw(median=140, sigma=0.9, low=4, high=1024)
"""Of the kind of ShareGPT's conversations: short in the middle, with a long tail; means of about 175 and 204 tokens."""


class Item(NamedTuple):
    """One request: its prompt, the tokens it generates exactly, and when it arrives, in seconds after the start."""

    prompt: list[int] | str
    output_len: int
    arrival_s: float = 0.0


class Lengths(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a file of requests."""

    output_tokens: int
    prompt_tokens: int = 0
    prompt: str | None = None


def draw_items(count: int, seed: int, rate: float | None = None) -> list[Item]:
    """Return requests of drawn lengths; with a `rate` in requests a second they arrive as a Poisson process."""
    numbers = np.random.default_rng(seed)
    lengths = zip(PROMPTS.draw(numbers, count), OUTPUTS.draw(numbers, count), strict=True)
    return _arrange([Lengths(output, prompt) for prompt, output in lengths], numbers, rate)


def read_items(path: Path, count: int, seed: int, rate: float | None = None) -> list[Item]:
    """Return the requests of a file of JSON lines, from its beginning again when it is over. Raise ConfigError."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        found = [msgspec.json.decode(line, type=Lengths) for line in lines]
    except (OSError, msgspec.MsgspecError) as error:
        wanted = '{"prompt_tokens": 90, "output_tokens": 140}, or with "prompt" a text'
        raise ConfigError(f"cannot read lengths from {path}: {error}; each line is {wanted}") from error
    if not found or any(item.output_tokens < 1 or not (item.prompt or item.prompt_tokens > 0) for item in found):
        raise ConfigError(f"{path} holds no requests, or some without a prompt or an output")
    chosen = [found[number % len(found)] for number in range(count)]
    return _arrange(chosen, np.random.default_rng(seed), rate)


def _arrange(lengths: list[Lengths], numbers: np.random.Generator, rate: float | None) -> list[Item]:
    arrivals = _arrivals(numbers, rate)
    return [
        Item(
            item.prompt or numbers.integers(FIRST_TOKEN, END_TOKEN, item.prompt_tokens).tolist(),
            item.output_tokens,
            next(arrivals),
        )
        for item in lengths
    ]


def _arrivals(numbers: np.random.Generator, rate: float | None) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += float(numbers.exponential(1 / rate)) if rate else 0.0
