"""Which requests go, in which order, and how much of each. The null device checks every plan on the way."""

import pytest

from quire.errors import ConfigError


def counts(plan):
    return plan.counts.tolist()


# -- budget and order --------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks(simulate):
    sim = simulate(budget=16)
    sim.add(40, max_tokens=1)
    sim.run()
    assert [(plan.starts.tolist(), counts(plan), plan.samples.tolist()) for plan in sim.plans] == [
        ([0], [16], [False]),
        ([16], [16], [False]),
        ([32], [8], [True]),
    ]


def test_decodes_come_before_chunks(simulate):
    sim = simulate(budget=16)
    sim.add(4)
    sim.step()
    sim.add(40)
    sim.step()
    assert (counts(sim.plans[-1]), sim.plans[-1].starts.tolist()) == ([1, 15], [4, 0])


def test_decodes_go_longest_first(simulate):
    sim = simulate(budget=64)
    for length in (5, 11, 8):
        sim.add(length)
    sim.step()
    sim.step()
    assert sim.plans[-1].starts.tolist() == [11, 8, 5]


def test_a_long_prompt_does_not_hold_up_decodes(simulate):
    sim = simulate(budget=8, num_blocks=100)
    sim.add(2, max_tokens=30)
    sim.add(100, max_tokens=1)
    sim.run()
    decodes = [plan for plan in sim.plans if 0 in plan.rows.tolist()]
    assert [plan.step for plan in decodes] == list(range(30))


def test_no_step_passes_the_budget(simulate):
    sim = simulate(budget=13)
    for length in (1, 7, 30, 13, 26):
        sim.add(length)
    sim.run()
    assert max(plan.num_tokens for plan in sim.plans) == 13


@pytest.mark.parametrize("mixed", [True, False])
def test_no_more_rows_are_given_than_the_budget_can_decode(simulate, mixed):
    sim = simulate(rows=8, budget=3, mix_prefill_decode=mixed)
    for _ in range(6):
        sim.add(3, max_tokens=20)
    sim.run()
    assert max(len(plan.rows) for plan in sim.plans) == 3


def test_waiting_requests_are_admitted_in_order_of_arrival(simulate):
    sim = simulate(rows=1)
    names = [sim.add(5, max_tokens=2).request_id for _ in range(3)]
    sim.run()
    assert [item.request.request_id for item in sim.progress if item.finish_reason] == names


def test_a_lower_priority_number_is_admitted_first(simulate):
    sim = simulate(rows=1, policy="priority")
    for name, priority in (("low", 5), ("high", -1), ("middle", 2)):
        sim.add(5, request_id=name, priority=priority)
    sim.run()
    finished = [item.request.request_id for item in sim.progress if item.finish_reason]
    assert finished == ["high", "middle", "low"]


def test_a_small_request_does_not_overtake_one_that_does_not_fit(simulate):
    sim = simulate(num_blocks=16, block_size=4)
    sim.add(40, max_tokens=4)  # 10 blocks of 16
    sim.add(30, request_id="large")  # 8 blocks
    sim.add(4, request_id="small")
    sim.step()
    assert (sim.scheduler.num_running, sim.scheduler.num_waiting) == (1, 2)


def test_nothing_to_do_is_no_plan(simulate):
    assert simulate().scheduler.schedule() is None


# -- constraints of devices --------------------------------------------------------------------------------------------


def test_prefill_and_decode_take_turns_where_they_cannot_mix(simulate):
    sim = simulate(mix_prefill_decode=False, budget=16)
    sim.add(8, max_tokens=6)
    sim.step()
    sim.add(40, max_tokens=3)
    sim.run()
    kinds = ["prefill" if plan.counts.max() > 1 else "decode" for plan in sim.plans]
    assert kinds[:6] == ["prefill", "decode", "prefill", "decode", "prefill", "decode"]


def test_at_most_so_many_requests_prefill_together(simulate):
    sim = simulate(max_prefill_requests=2)
    for _ in range(5):
        sim.add(6)
    sim.run()
    assert [len(plan.new_rows) for plan in sim.plans[:3]] == [2, 2, 1]


def test_chunks_are_multiples_where_the_device_wants_them(simulate):
    sim = simulate(chunk_multiple=8, budget=20)
    sim.add(30, max_tokens=2)
    sim.run()
    assert [counts(plan)[0] for plan in sim.plans] == [16, 14, 1]


def test_a_step_fits_the_largest_buckets(simulate):
    sim = simulate(token_buckets=(4, 16), row_buckets=(1, 3))
    for _ in range(5):
        sim.add(20)
    sim.run()
    assert max(plan.num_tokens for plan in sim.plans) == 16
    assert max(len(plan.rows) for plan in sim.plans) == 3


def test_a_budget_below_the_chunk_multiple_is_refused(simulate):
    with pytest.raises(ConfigError, match="multiples of 32"):
        simulate(chunk_multiple=32, budget=16)
