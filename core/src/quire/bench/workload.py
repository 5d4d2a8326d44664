"""The workload that throughput is measured on, the same for every engine: token ids only, exact lengths, greedy."""

from __future__ import annotations

import random
from typing import NamedTuple

NUM_REQUESTS = 64
PROMPT_LENGTHS = (32, 512)
OUTPUT_LENGTHS = (32, 256)
FIRST_TOKEN, END_TOKEN = 3, 32768
LENGTH_SEED, TOKEN_SEED = 1234, 1000


class Workload(NamedTuple):
    """`prompts` [num_requests] of token ids, and how many tokens each request generates."""

    prompts: list[list[int]]
    output_lengths: list[int]

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def output_tokens(self) -> int:
        return sum(self.output_lengths)


def make_workload(repetition: int = 0, num_requests: int = NUM_REQUESTS, vocab_size: int = END_TOKEN) -> Workload:
    """Return the requests of one repetition: lengths are the same in each, tokens differ, so no cache can help."""
    lengths = random.Random(LENGTH_SEED)
    prompt_lengths = [lengths.randint(*PROMPT_LENGTHS) for _ in range(num_requests)]
    output_lengths = [lengths.randint(*OUTPUT_LENGTHS) for _ in range(num_requests)]
    tokens, end = random.Random(TOKEN_SEED + repetition), min(vocab_size, END_TOKEN)
    prompts = [[tokens.randrange(FIRST_TOKEN, end) for _ in range(length)] for length in prompt_lengths]
    return Workload(prompts, output_lengths)


def make_prompt(seed: int, num_tokens: int = 32, vocab_size: int = END_TOKEN) -> list[int]:
    """Return one prompt of random tokens."""
    tokens = random.Random(seed)
    return [tokens.randrange(FIRST_TOKEN, min(vocab_size, END_TOKEN)) for _ in range(num_tokens)]
