"""Level 4, continued: what else a request may ask of its logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from quire.outputs import Logprob, RequestOutput
from quire_conformance.agreement import difference
from quire_conformance.checkpoints import VOCAB_SIZE
from quire_conformance.claims import claims
from quire_conformance.target import Ask, Target, completions
from quire_conformance.workloads import drawn, greedy, mixed, prompt

TOLERANCE = 1e-3  # of a natural logarithm in float32; the model's logits span about 60
NUM_BEST = 5
EDITS: Mapping[str, dict[str, Any]] = {
    "logit_bias": {"logit_bias": {11: 30.0, 12: -30.0}},
    "allowed_token_ids": {"allowed_token_ids": (9, 10, 11, 12, 13)},
    "min_tokens": {"min_tokens": 6, "stop_token_ids": tuple(range(20, VOCAB_SIZE))},
}
PENALTIES: Mapping[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": 1.2},
    "all of them": {"repetition_penalty": 1.3, "presence_penalty": 0.6, "frequency_penalty": 0.7},
}


def served_alike(target: Target, **changes: Any) -> tuple[list[RequestOutput], list[RequestOutput]]:
    """Serve the mixed workload on target and reference."""
    asks = mixed(target, **changes)
    return target.serve(asks), target.reference.serve(asks, dtype=target.dtype)


def must_agree(pair: tuple[list[RequestOutput], list[RequestOutput]], what: str) -> None:
    problem = difference(*(completions(outputs) for outputs in pair))
    assert not problem, f"{what} gives other tokens than the reference: {problem}"


@claims("penalties")
@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_penalties_choose_the_references_tokens(target: Target, name: str) -> None:
    must_agree(served_alike(target, **PENALTIES[name]), name)


@claims("penalties", "chunked_prefill")
def test_penalties_survive_a_preemption(target: Target) -> None:
    params = [greedy(max_tokens=2 * target.block_size, **PENALTIES["all of them"])] * 3
    asks = [Ask(prompt(target.block_size, index), item) for index, item in enumerate(params)]
    few: dict[str, Any] = {
        "num_blocks": 6 + target.kv.reserved_blocks,
        "max_model_len": 4 * target.block_size,
        "watermark": 0.0,
    }
    with target.open(**few) as opened:
        found = completions(opened.ask(asks))
        assert opened.engine.stats().num_preemptions > 0, "nothing was preempted"
    problem = difference(found, target.tokens(asks, max_num_seqs=1))
    assert not problem, f"penalties count other tokens after a preemption: {problem}"


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edited_logits_choose_the_references_tokens(target: Target, name: str) -> None:
    must_agree(served_alike(target, **EDITS[name]), name)


@claims("logprobs")
def test_logprobs_are_the_references(target: Target) -> None:
    found, right = served_alike(target, logprobs=NUM_BEST)
    must_agree((found, right), "asking for logprobs")
    for one, other in zip(_positions(found), _positions(right), strict=True):
        _compare_position(one, other)


@claims("logprobs")
def test_logprobs_are_of_a_distribution(target: Target) -> None:
    asks = [Ask(prompt(9), greedy(logprobs=NUM_BEST)), Ask(prompt(7), drawn(3, logprobs=-1))]
    for position in _positions(target.serve(asks, max_logprobs=-1)):
        best = sorted((item.logprob for item in position.values()), reverse=True)
        mass = sum(math.exp(value) for value in best)
        assert mass <= 1 + TOLERANCE, f"probabilities of one position sum to {mass:.4f}: not natural logarithms"
        if len(position) == VOCAB_SIZE:
            assert abs(mass - 1) < TOLERANCE, f"probabilities of the whole vocabulary sum to {mass:.4f}, not 1"
        ranks = [item.rank for item in sorted(position.values(), key=lambda item: -item.logprob) if item.rank]
        assert ranks[0] == 1, f"the best token has rank {ranks[0]}; ranks count from 1"


@claims("logprobs", "penalties")
def test_logprobs_are_of_the_models_own_logits(target: Target) -> None:
    """Before penalties and bias, as vLLM's "raw" ones."""
    bias = dict.fromkeys(range(100), -40.0)
    params = (greedy(max_tokens=1, logprobs=-1), greedy(max_tokens=1, logprobs=-1, logit_bias=bias))
    plain, edited = (target.serve([Ask(prompt(9), item)], max_logprobs=-1) for item in params)
    for one, other in zip(_positions(edited), _positions(plain), strict=True):
        _compare_position(one, other)


@claims("logprobs", "chunked_prefill")
def test_prompt_logprobs_are_the_same_in_chunks(target: Target) -> None:
    ask = Ask(prompt(2 * target.block_size + 5), greedy(max_tokens=1, prompt_logprobs=1))
    whole = target.serve([ask])[0].prompt_logprobs
    budget = max(target.block_size - 3, target.caps.schedule.chunk_multiple)
    parts = target.serve([ask], max_num_batched_tokens=budget)[0].prompt_logprobs
    assert whole and parts and len(whole) == len(parts) == len(ask.prompt), "a prompt position lacks its logprobs"
    for one, other in zip(parts[1:], whole[1:], strict=True):
        assert one is not None and other is not None, "only the first position has none"
        _compare_position(one, other)


@claims("speculation")
def test_drafts_change_no_token(target: Target) -> None:
    from quire_conformance.drafts import tokens_with_drafts, tokens_without_drafts

    plain = tokens_without_drafts(target)
    for name, wrong_at in (("right", None), ("wrong from the first", 0), ("wrong from the second", 1)):
        found = tokens_with_drafts(target, plain, wrong_at)
        assert found == plain[: len(found)], f"drafts that are {name} change tokens: {found}, without them {plain}"


def _positions(outputs: list[RequestOutput]) -> list[dict[int, Logprob]]:
    found = [position for output in outputs for item in output.outputs for position in item.logprobs or ()]
    assert found, "logprobs were asked for, and none came"
    return found


def _compare_position(found: dict[int, Logprob], right: dict[int, Logprob]) -> None:
    for token in found.keys() & right.keys():
        error = abs(found[token].logprob - right[token].logprob)
        assert error <= TOLERANCE * (1 + abs(right[token].logprob)), (
            f"token {token} has logprob {found[token].logprob:.5f}; it should be {right[token].logprob:.5f}"
        )
        assert found[token].rank == right[token].rank, f"token {token} has rank {found[token].rank}"
    assert len(found.keys() & right.keys()) >= len(right) - 1, f"other tokens are the best: {sorted(found)}"
