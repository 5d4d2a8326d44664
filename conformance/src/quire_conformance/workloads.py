"""What the suite asks of an engine: prompts of awkward lengths, half greedy, half drawn with seeds of their own."""

from __future__ import annotations

import random
from typing import Any

from quire.sampling import SamplingParams
from quire_conformance.checkpoints import VOCAB_SIZE
from quire_conformance.target import Ask, Target

SPECIAL_TOKENS = 8  # ids below are not used in prompts: end of sequence, and the poisoned one
SIXTEENTHS = (1, 13, 16, 17, 33, 47, 85)  # prompt lengths in sixteenths of a block
NUM_OUTPUTS = 17


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Return seeded token ids."""
    numbers = random.Random(seed)
    return tuple(numbers.randrange(SPECIAL_TOKENS, VOCAB_SIZE) for _ in range(length))


def lengths(target: Target) -> list[int]:
    """Return prompt lengths around the block size: 1, within a block, whole blocks, and one more."""
    return [max(1, sixteenths * target.block_size // 16) for sixteenths in SIXTEENTHS]


def greedy(**changes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": NUM_OUTPUTS, "ignore_eos": True, **changes})


def drawn(seed: int, **changes: Any) -> SamplingParams:
    kept = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01}
    return SamplingParams(**{**kept, "seed": seed, "max_tokens": NUM_OUTPUTS, "ignore_eos": True, **changes})


def mixed(target: Target, **changes: Any) -> list[Ask]:
    """Return one request for each length: every second one drawn."""
    return [
        Ask(prompt(length, index), drawn(100 + index, **changes) if index % 2 else greedy(**changes))
        for index, length in enumerate(lengths(target))
    ]
