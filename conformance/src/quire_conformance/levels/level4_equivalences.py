"""Level 4: however an engine arranges its work, the tokens are those of one request alone, whole and cold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from quire_conformance.agreement import agreement, difference
from quire_conformance.claims import claims
from quire_conformance.target import MAX_MODEL_LEN, SERVED_TOGETHER, Ask, Target, completions
from quire_conformance.workloads import drawn, greedy, lengths, mixed, prompt

Record = Callable[..., None]
HALF = ("bfloat16", "float16")


@pytest.fixture
def asks(target: Target) -> list[Ask]:
    return mixed(target)


@pytest.fixture
def plain(target: Target, asks: list[Ask]) -> list[list[int]]:
    """Tokens of each request served alone, whole, cold, without overlap."""
    return target.remember("plain", lambda: target.tokens(asks, max_num_seqs=1))


def must_agree(found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], what: str) -> None:
    problem = difference(found, expected)
    assert not problem, f"{what}: {problem}"


@claims("float32")
def test_tokens_are_those_of_the_reference_backend(
    target: Target, asks: list[Ask], plain: list[list[int]], figure: Record
) -> None:
    expected = target.remember("reference", lambda: target.reference.tokens(asks, max_num_seqs=1))
    figure("token agreement", agreement(plain, expected), dtype=target.dtype)
    must_agree(plain, expected, "tokens in float32 differ from the reference backend's")


def test_half_precision_serves_and_its_agreement_is_reported(target: Target, asks: list[Ask], figure: Record) -> None:
    for dtype in [name for name in target.caps.dtypes if name in HALF]:
        found, expected = target.tokens(asks, dtype=dtype), target.reference.tokens(asks, dtype=dtype)
        share = agreement(found, expected)
        figure("token agreement", share, dtype=dtype)
        assert share > 0.3, f"in {dtype} only {share:.0%} of the tokens agree with the reference in the same dtype"


def test_batched_requests_give_the_tokens_of_each_alone(
    target: Target, asks: list[Ask], plain: list[list[int]]
) -> None:
    must_agree(target.tokens(asks), plain, "served together, tokens differ from those of each request alone")


def test_the_order_of_a_batch_changes_nothing(target: Target, asks: list[Ask], plain: list[list[int]]) -> None:
    found = target.tokens(asks[::-1])[::-1]
    must_agree(found, plain, "in reversed order, tokens depend on a request's place in the batch")


@claims("chunked_prefill")
@pytest.mark.parametrize("sixteenths", [5, 16, 37])
def test_chunked_prompts_give_the_tokens_of_whole_ones(
    target: Target, asks: list[Ask], plain: list[list[int]], sixteenths: int
) -> None:
    budget = max(sixteenths * target.block_size // 16, 4 * target.caps.schedule.chunk_multiple)
    found = target.tokens(asks, max_num_seqs=4, max_num_batched_tokens=budget)
    must_agree(found, plain, f"prompts in chunks of a budget of {budget} tokens give other tokens than whole ones")


@claims("prefix_cache")
def test_a_prefix_hit_gives_the_tokens_of_a_cold_run(
    target: Target, asks: list[Ask], plain: list[list[int]], figure: Record
) -> None:
    with target.open(enable_prefix_caching=True) as opened:
        opened.ask(asks)
        again = opened.ask(asks)
    hits = sum(output.num_cached_tokens for output in again)
    figure("cached prompt tokens", hits)
    assert hits > 0, "prefix_cache is claimed, and no prompt token was found in the cache"
    must_agree(completions(again), plain, "with a prefix from the cache, tokens differ from a cold run's")


@claims("prefix_cache")
def test_requests_that_share_a_prefix_do_not_see_each_others_continuation(target: Target) -> None:
    shared = prompt(2 * target.block_size, 50)
    asks = [Ask((*shared, *prompt(length, 60 + length)), greedy()) for length in (1, 3, target.block_size + 1)]
    expected = target.tokens(asks, max_num_seqs=1)
    found = target.tokens(asks, enable_prefix_caching=True)
    must_agree(found, expected, "requests that share a prefix see keys and values of each other's continuation")


@claims("chunked_prefill")
def test_preempted_requests_give_the_tokens_of_undisturbed_ones(target: Target, figure: Record) -> None:
    """Outputs are long, so that requests outgrow the blocks also where a backend admits them one by one."""
    num_outputs = 3 * target.block_size
    asks = mixed(target, max_tokens=num_outputs)
    longest = max(lengths(target)) + num_outputs
    num_blocks = longest // target.block_size + 2 + target.kv.reserved_blocks
    settings: dict[str, Any] = {"num_blocks": num_blocks, "max_model_len": longest, "watermark": 0.0}
    with target.open(**settings) as opened:
        outputs = opened.ask(asks)
        preemptions = opened.engine.stats().num_preemptions
    figure("preemptions", preemptions)
    assert preemptions > 0, f"{num_blocks} blocks were enough for all: nothing was preempted"
    plain = target.tokens(asks, max_num_seqs=1)
    must_agree(completions(outputs), plain, "preempted and computed again, requests give other tokens")


@claims("overlap")
@pytest.mark.parametrize("budget_blocks", [2, MAX_MODEL_LEN])
def test_overlapped_steps_give_the_tokens_of_plain_ones(
    target: Target, asks: list[Ask], plain: list[list[int]], budget_blocks: int
) -> None:
    budget = budget_blocks * target.block_size
    with target.open(overlap=True, max_num_batched_tokens=budget) as opened:
        depth = opened.engine.facts.max_in_flight
        assert depth > 1, f"overlap is claimed (max_in_flight {target.caps.max_in_flight}), the executor takes {depth}"
        must_agree(completions(opened.ask(asks)), plain, f"with {depth} steps in flight, tokens differ from plain ones")


@pytest.mark.parametrize("num_requests", [1, 2, 3, 5, SERVED_TOGETHER])
def test_every_number_of_rows_gives_the_tokens_of_each_alone(target: Target, num_requests: int) -> None:
    asks = [Ask(prompt(3 + 5 * index, 70 + index), greedy(max_tokens=5)) for index in range(SERVED_TOGETHER)]
    alone = target.remember("rows", lambda: target.tokens(asks, max_num_seqs=1))
    must_agree(target.tokens(asks[:num_requests]), alone[:num_requests], f"{num_requests} rows give other tokens")


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_prompts_that_end_at_a_blocks_edge_give_the_references_tokens(target: Target, offset: int) -> None:
    asks = [Ask(prompt(blocks * target.block_size + offset, 80 + blocks), greedy(max_tokens=4)) for blocks in (1, 2, 3)]
    expected = target.reference.tokens(asks, dtype=target.dtype)
    must_agree(target.tokens(asks), expected, f"prompts of whole blocks {offset:+d} give other tokens")


def test_a_row_that_is_taken_again_remembers_nothing(target: Target) -> None:
    long, short = (Ask(prompt(length, 90 + length), greedy()) for length in (3 * target.block_size, 5))
    expected = target.tokens([short])
    with target.open(max_num_seqs=1) as opened:
        opened.ask([long])
        must_agree(completions(opened.ask([short])), expected, "a row's new request is disturbed by the one before it")


def test_a_seed_gives_the_same_tokens_whatever_runs_beside(target: Target) -> None:
    asks = [Ask(prompt(9, index), drawn(7)) for index in range(4)]
    alone = [target.tokens([ask])[0] for ask in asks[2:]]
    beside = target.tokens(asks)[2:]
    must_agree(beside, alone, "draws depend on what runs beside: noise must be keyed by seed and position alone")


@claims("deterministic")
def test_two_runs_give_the_same_tokens(target: Target, asks: list[Ask]) -> None:
    must_agree(target.tokens(asks), target.tokens(asks), "deterministic is claimed, and two runs differ")


@claims("block_copy")
def test_n_samples_share_a_prompt_and_give_the_tokens_of_separate_requests(target: Target) -> None:
    start = prompt(2 * target.block_size + 3, 5)
    shared = target.tokens([Ask(start, drawn(7, n=4, temperature=1.0))])
    separate = target.tokens([Ask(start, drawn(7 + index, temperature=1.0)) for index in range(4)])
    must_agree(shared, separate, "n samples of one prompt differ from separate requests with the same seeds")
    assert len({tuple(tokens) for tokens in shared}) > 1, "four seeds gave one text: nothing was drawn"


@claims("sliding_window")
def test_a_model_with_a_window_gives_the_references_tokens(target: Target, asks: list[Ask]) -> None:
    expected = target.reference.tokens(asks, "windowed", dtype=target.dtype)
    must_agree(target.tokens(asks, "windowed"), expected, "a model with a sliding window gives other tokens")
