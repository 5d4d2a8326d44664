"""Level 7: faults end what they must and nothing else, and leave nothing behind."""

from __future__ import annotations

import gc
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from quire.backend.contract import Executor, ExecutorFacts
from quire.errors import CapacityError, EngineDeadError
from quire.plan import StepPlan, StepResult
from quire_conformance.agreement import difference
from quire_conformance.checkpoints import NAN_TOKEN
from quire_conformance.claims import claims
from quire_conformance.target import Ask, Opened, Target, completions
from quire_conformance.workloads import greedy, mixed, prompt

pytestmark = claims("computes")
NUM_STORM = 24
NUM_CYCLES = 3


class Failing:
    """An executor that raises in its nth step, in front of the target's own."""

    def __init__(self, inner: Executor, fails_at: int) -> None:
        self.inner = inner
        self.fails_at = fails_at
        self.num_steps = 0

    def start(self) -> ExecutorFacts:
        return self.inner.start()

    def submit(self, plan: StepPlan) -> Any:
        return self.inner.submit(plan)

    def collect(self, ticket: Any) -> StepResult:
        self.num_steps += 1
        result = self.inner.collect(ticket)
        if self.num_steps == self.fails_at:
            raise RuntimeError("the device was lost")
        return result

    def read_kv(self, layer: int, block_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner.read_kv(layer, block_ids)

    def memory_report(self) -> Mapping[str, int]:
        return self.inner.memory_report()

    def stop(self) -> None:
        self.inner.stop()


def test_an_abort_storm_loses_no_block_and_disturbs_nobody(target: Target) -> None:
    asks = [Ask(prompt(1 + 7 * index % 40, index), greedy(max_tokens=3 + index % 11)) for index in range(NUM_STORM)]
    survivors = [index for index in range(NUM_STORM) if index % 3]
    with target.open(overlap=True, num_blocks=40 + target.kv.reserved_blocks) as opened:
        found = _storm(opened, asks, set(survivors))
        opened.engine.check_integrity()
        usage = opened.engine.stats().kv_usage
    assert usage == 0, f"after the storm {usage:.1%} of the KV blocks are still held: blocks leak on abort"
    problem = difference([found[index] for index in survivors], target.tokens([asks[index] for index in survivors]))
    assert not problem, f"a request that went on was disturbed by aborts of others: {problem}"


def test_an_executor_that_fails_ends_the_engine_with_its_cause(target: Target) -> None:
    executor, context = target.build()
    with target.running(Failing(executor, fails_at=3), context) as opened:
        with pytest.raises(EngineDeadError, match="the device was lost"):
            opened.ask(mixed(target))
        with pytest.raises(EngineDeadError):
            opened.engine.add("later", {"prompt_token_ids": [9]})
    problem = difference(
        target.tokens(mixed(target)[:2]), target.reference.tokens(mixed(target)[:2], dtype=target.dtype)
    )
    assert not problem, f"after a failed engine, a new one gives other tokens: {problem}"


def test_a_cache_that_cannot_fit_is_refused_and_the_next_engine_runs(target: Target) -> None:
    executor, _ = target.build(num_blocks=None, memory_bytes=1)
    with pytest.raises(CapacityError, match="fit|room"):
        executor.start()
    executor.stop()
    impossible, _ = target.build(num_blocks=2**31 - 1)  # beyond any address space
    try:
        impossible.start()
    except CapacityError:
        pass
    except Exception as error:
        pytest.fail(f"out of memory must be raised as CapacityError, start raised {type(error).__name__}: {error}")
    else:
        pytest.fail("the executor started with more blocks than any memory holds")
    impossible.stop()
    assert target.tokens([Ask(prompt(5), greedy())]), "no engine can be opened after one was refused"


@claims("float32")
@pytest.mark.parametrize("overlap", [False, True])
def test_a_row_that_is_not_finite_fails_alone(target: Target, overlap: bool) -> None:
    keep = {"allowed_token_ids": tuple(range(NAN_TOKEN + 1, 200))}
    healthy = [Ask(prompt(9 + index, index), greedy(**keep)) for index in range(3)]
    sick = Ask((*prompt(5, 9), NAN_TOKEN, *prompt(4, 8)), greedy(**keep))
    expected = target.tokens(healthy, "poisoned")
    with target.open("poisoned", overlap=overlap) as opened:
        outputs = opened.ask([*healthy[:2], sick, healthy[2]])
        after = completions(opened.ask([healthy[0]]))
    reason = outputs[2].outputs[0].finish_reason
    assert reason == "error", (
        f"a row with NaN in its hidden state ends with {reason!r}, not 'error': it is not reported"
    )
    problem = difference(completions([*outputs[:2], outputs[3]]), expected)
    assert not problem, f"a row with NaN disturbs its neighbours: {problem}"
    assert not difference(after, expected[:1]), "what a row with NaN left in the cache disturbs a later request"


def test_engines_that_were_closed_leave_no_memory_behind(target: Target) -> None:
    sizes = []
    for _ in range(NUM_CYCLES):
        with target.open() as opened:
            opened.ask([Ask(prompt(9), greedy(max_tokens=2))])
        del opened
        gc.collect()
        sizes.append(_tensor_bytes())
    grown = sizes[-1] - sizes[0]
    kv_bytes = target.config().num_blocks * target.block_size * target.spec().kv_bytes_per_token(2)  # type: ignore[operator]
    assert grown < kv_bytes // 2, f"each closed engine leaves memory behind: tensors grew by {grown} bytes"


def _storm(opened: Opened, asks: Sequence[Ask], survivors: set[int]) -> dict[int, list[int]]:
    """Add requests while stepping, abort every third at a random moment, and return what came of each."""
    numbers, engine = random.Random(3), opened.engine
    found: dict[int, list[int]] = {}
    waiting, doomed = list(range(len(asks))), []
    while waiting or engine.has_work:
        for index in [waiting.pop(0) for _ in range(min(len(waiting), 3))]:
            engine.add(str(index), {"prompt_token_ids": list(asks[index].prompt)}, asks[index].params)
            doomed += [] if index in survivors else [index]
        for output in engine.step():
            found[int(output.request_id)] = list(output.outputs[0].token_ids)
        if doomed and numbers.random() < 0.5:
            engine.abort(str(doomed.pop(numbers.randrange(len(doomed)))))
    return found


def _tensor_bytes() -> int:
    storages = {item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in _tensors()}
    return sum(storages.values())


def _tensors() -> list[torch.Tensor]:
    return [item for item in gc.get_objects() if type(item) is torch.Tensor]
