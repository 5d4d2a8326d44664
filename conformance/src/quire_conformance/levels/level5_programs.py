"""Level 5: a program computes what its function does, all are built at warm-up, and no hook is called in a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from quire_conformance.agreement import difference
from quire_conformance.claims import claims
from quire_conformance.target import SERVED_TOGETHER, Ask, Target, completions
from quire_conformance.watch import CallWatch, build_codes, hook_codes
from quire_conformance.workloads import greedy, mixed, prompt

Record = Callable[..., None]


def test_no_hook_is_called_between_warm_up_and_drain(target: Target) -> None:
    asks = mixed(target)
    with CallWatch(hook_codes(target)) as watch, target.open(overlap=True) as opened:
        opened.ask(asks)
        watch.start()
        opened.ask(asks)
        watch.stop()
    at_the_door = Counter(quire_validate_request=len(asks))  # once for each request, and in no step
    in_steps = watch.counts - at_the_door
    assert not in_steps, (
        f"hooks are called in steps: {dict(in_steps)}; they are cold, a step may only use what they returned"
    )


def test_nothing_is_built_after_warm_up(target: Target, figure: Record) -> None:
    with CallWatch(build_codes(target)) as watch, target.open() as opened:
        watch.start()
        opened.ask(_sizes(1))
        figure("programs built at warm-up", sum(watch.counts.values()))
        watch.start()
        opened.ask(_sizes(2))
        watch.stop()
    assert not watch.counts, (
        f"programs are built after warm-up, for sizes that had one already: {dict(watch.counts)}; "
        "a step would wait for a compilation or a capture"
    )


@claims("programs")
@pytest.mark.parametrize("num_rows", range(1, SERVED_TOGETHER + 1))
def test_a_program_gives_the_tokens_of_the_plain_function(target: Target, num_rows: int) -> None:
    asks = [Ask(prompt(3 + index, index), greedy(max_tokens=6)) for index in range(num_rows)]
    expected = target.tokens(asks, enforce_eager=True)
    problem = difference(target.tokens(asks), expected)
    assert not problem, f"with programs, {num_rows} rows give other tokens than eagerly: {problem}"


@claims("programs")
def test_programs_read_each_steps_own_inputs(target: Target) -> None:
    """The same buckets serve two loads one after the other; a captured input would show in the second."""
    first, second = mixed(target), mixed(target)[::-1]
    with target.open(overlap=target.caps.max_in_flight > 1) as opened:
        opened.ask(first)
        found = completions(opened.ask(second))
    problem = difference(found, target.tokens(second, enforce_eager=True))
    assert not problem, f"a program that has served before gives stale tokens: {problem}"


@claims("no programs")
def test_without_programs_eager_is_what_runs_anyway(target: Target) -> None:
    asks = mixed(target)
    problem = difference(target.tokens(asks), target.tokens(asks, enforce_eager=True))
    assert not problem, f"no programs are claimed, but enforce_eager changes tokens: {problem}"


def _sizes(seed: int) -> list[Ask]:
    """Requests that take every number of rows on their way out, with prompts of the same lengths whatever the seed."""
    outputs = range(2, 2 + SERVED_TOGETHER)
    return [Ask(prompt(3 + count, seed * 100 + count), greedy(max_tokens=count)) for count in outputs]
