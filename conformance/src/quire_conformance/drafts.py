"""Speculation through the executor alone: a row whose next tokens were guessed."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.plan import NewRow, StepPlan, StepResult
from quire_conformance.checkpoints import VOCAB_SIZE
from quire_conformance.target import Target
from quire_conformance.workloads import greedy, prompt

PROMPT_LEN, NUM_TOKENS, NUM_DRAFTS = 9, 8, 3


def tokens_without_drafts(target: Target) -> list[int]:
    """Return the greedy tokens of one row, one in each step."""
    return _run(target, lambda tokens: ())


def tokens_with_drafts(target: Target, right: list[int], wrong_at: int | None) -> list[int]:
    """Do the same with drafts: the right tokens, up to index `wrong_at` of each step's."""

    def guess(tokens: list[int]) -> tuple[int, ...]:
        drafts = right[len(tokens) : len(tokens) + NUM_DRAFTS]
        known = len(drafts) if wrong_at is None else wrong_at
        return tuple(token if at < known else (token + 1) % VOCAB_SIZE for at, token in enumerate(drafts))

    return _run(target, guess)


def _run(target: Target, guess: Any) -> list[int]:
    executor, _ = target.build()
    executor.start()
    try:
        start = prompt(PROMPT_LEN)
        tokens = list(_step(executor, 0, start, 0, PROMPT_LEN, (), target).token_ids[0])
        while len(tokens) < NUM_TOKENS:
            drafts, at = guess(tokens), PROMPT_LEN + len(tokens) - 1
            result = _step(executor, len(tokens), start, at, 1 + len(drafts), drafts, target)
            assert result.token_ids[0], "a step that samples appended no token"
            tokens += result.token_ids[0]
        return tokens[:NUM_TOKENS]
    finally:
        executor.stop()


def _step(
    executor: Any, step: int, start: tuple[int, ...], at: int, count: int, drafts: tuple[int, ...], target: Target
) -> StepResult:
    blocks = np.arange(4, dtype=np.int32) + target.kv.reserved_blocks
    new = NewRow(0, np.array(start, np.int32), len(start), blocks, greedy(), seed=0)
    plan = StepPlan(
        step,
        rows=np.zeros(1, np.int32),
        starts=np.array([at], np.int32),
        counts=np.array([count], np.int32),
        samples=np.array([True]),
        new_rows=() if at else (new,),
        drafts={0: drafts} if drafts else {},
    )
    result: StepResult = executor.collect(executor.submit(plan))
    return result
