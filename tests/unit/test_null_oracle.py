"""The null device refuses a plan that contradicts it: each seeded mistake is found, by its name."""

import dataclasses

import numpy as np
import pytest

from quire.backend.null_device import NullDevice, pseudo_tokens
from quire.errors import BackendError
from quire.plan import NewBlocks


def ints(*values):
    return np.array(values, np.int32)


@pytest.fixture
def sim(simulate):
    """Two requests of 6 and 7 tokens, blocks of 4, one step done."""
    sim = simulate(block_size=4)
    sim.add(6)
    sim.add(7)
    sim.step()
    return sim


def submit(sim, **changes):
    """Plan the next step, change it, and give it to the device."""
    sim.executor.submit(dataclasses.replace(sim.scheduler.schedule(), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ints(0, 0)}, "or one twice"),
        ({"rows": ints(0, 5)}, "where nobody sits"),
        ({"counts": ints(0, 1)}, "for nothing"),
        ({"starts": ints(5, 7)}, "do not go on where they stopped"),
        ({"counts": ints(2, 1)}, "whose token does not exist yet"),
        ({"samples": np.array([False, True])}, "samples too early, or misses to"),
        ({"freed_rows": (4,)}, "nobody sits there"),
        ({"new_blocks": NewBlocks(ints(5), ints(0), ints(9))}, "where nobody sits"),
        ({"new_blocks": NewBlocks(ints(0), ints(3), ints(9))}, "out of order"),
        ({"new_blocks": NewBlocks(ints(0), ints(2), ints(64))}, "which requests cannot have"),
        ({"block_copies": np.array([[40, 41]], np.int32)}, "holds nothing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_contradiction_is_found(sim, changes, message):
    with pytest.raises(BackendError, match=message):
        submit(sim, **changes)


def test_a_block_that_is_missing_is_found(simulate):
    sim = simulate(block_size=4)
    sim.add(8)
    sim.step()
    with pytest.raises(BackendError, match="that has no block"):
        submit(sim, new_blocks=NewBlocks(ints(), ints(), ints()))


def test_a_row_given_twice_is_found(sim):
    sim.add(5)
    plan = sim.scheduler.schedule()
    new = dataclasses.replace(plan.new_rows[0], row=0)
    with pytest.raises(BackendError, match="second request"):
        sim.executor.submit(dataclasses.replace(plan, new_rows=(new,)))


def test_a_write_to_a_shared_block_is_found(simulate):
    sim = simulate(block_size=4)
    sim.add(6)
    sim.add(7)
    plan = sim.scheduler.schedule()
    first, second = plan.new_rows
    second = dataclasses.replace(second, block_ids=first.block_ids)
    with pytest.raises(BackendError, match="a block that others read"):
        sim.executor.submit(dataclasses.replace(plan, new_rows=(first, second)))


def test_a_prefix_hit_on_foreign_content_is_found(simulate, make_tokens):
    sim = simulate(block_size=4)
    first = sim.add(make_tokens(9))
    sim.step()
    sim.add([*make_tokens(8), 5])
    plan = sim.scheduler.schedule()
    new = dataclasses.replace(plan.new_rows[0], token_ids=plan.new_rows[0].token_ids + 1)
    assert new.block_ids.tolist()[:2] == first.block_ids[:2]
    with pytest.raises(BackendError, match="another sequence's content"):
        sim.executor.submit(dataclasses.replace(plan, new_rows=(new,)))


def test_a_lost_copy_is_found(simulate, make_tokens):
    sim = simulate(block_size=4)
    for index in range(2):
        sim.add(make_tokens(7), group="g", seed=index)
    sim.step()
    with pytest.raises(BackendError, match="another sequence's content"):
        submit(sim, block_copies=np.empty((0, 2), np.int32))


def test_other_output_after_a_preemption_is_found(sim):
    sim.scheduler.planner.preempt(sim.scheduler.planner.new_draft())
    plan = sim.scheduler.schedule()
    (new,) = plan.new_rows
    assert len(new.token_ids) > new.prompt_len
    tokens = new.token_ids.copy()
    tokens[-1] += 1
    with pytest.raises(BackendError, match="comes back with other tokens"):
        sim.executor.submit(dataclasses.replace(plan, new_rows=(dataclasses.replace(new, token_ids=tokens),)))


@pytest.mark.parametrize(
    ("limits", "lengths", "message"),
    [
        ({"mix_prefill_decode": False}, (6, 6), "mixed"),
        ({"max_prefill_requests": 1}, (0, 6, 6), "2 rows prefill"),
        ({"chunk_multiple": 4}, (0, 70), "chunks of"),
        ({"token_buckets": (8,)}, (0, 9), "9 tokens are more than any bucket"),
        ({"row_buckets": (1,)}, (0, 2, 2), "2 rows are more than any bucket"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_plan_past_the_devices_limits_is_found(simulate, limits, lengths, message):
    """Plans of a scheduler that knows no limits, on a device that has some."""
    free, bound = simulate(budget=66), simulate(budget=66, **limits)
    device = NullDevice(bound.facts, 997, verify=False)
    first, *rest = lengths
    if first:
        free.add(first)
        device.apply(free.schedule())
        free.commit()
    for length in rest:
        free.add(length)
    with pytest.raises(BackendError, match=message):
        device.apply(free.scheduler.schedule())


def test_a_step_too_many_is_refused(simulate):
    sim = simulate(depth=2)
    sim.add(5)
    sim.schedule(), sim.schedule()
    with pytest.raises(BackendError, match="one more than the 2"):
        sim.executor.submit(sim.scheduler.schedule())


def test_steps_are_collected_in_order(simulate):
    sim = simulate(depth=2)
    sim.add(5)
    sim.schedule(), sim.schedule()
    with pytest.raises(BackendError, match="out of order"):
        sim.executor.collect(sim.in_flight[1][1])


def test_tokens_depend_on_seed_and_position_alone():
    seeds, positions = np.array([1, 1, 2], np.uint64), np.array([5, 6, 5])
    together = pseudo_tokens(seeds, positions, 997)
    assert together.tolist() == [int(pseudo_tokens(seeds[i : i + 1], positions[i : i + 1], 997)[0]) for i in range(3)]
    assert len(set(together.tolist())) == 3


def test_tokens_are_spread_over_the_vocabulary():
    drawn = pseudo_tokens(np.full(10_000, 3, np.uint64), np.arange(10_000), 100)
    counts = np.bincount(drawn, minlength=100)
    assert 60 < counts.min() <= counts.max() < 140
