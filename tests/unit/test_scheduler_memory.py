"""Blocks: when they are taken, who gives way, what is kept free. The null device checks every plan on the way."""

import random

import pytest


def test_when_blocks_run_out_the_last_to_come_gives_way(simulate):
    sim = simulate(num_blocks=8, block_size=4)
    first, last = sim.add(13, max_tokens=12), sim.add(13, max_tokens=12)
    sim.run()
    assert first.num_preemptions == 0
    assert last.num_preemptions >= 1
    assert all(len(output.token_ids) == 12 for output in sim.outputs.values())


def test_when_blocks_run_out_the_highest_priority_number_gives_way(simulate):
    sim = simulate(num_blocks=8, block_size=4, policy="priority")
    low, high = sim.add(13, max_tokens=12, priority=5), sim.add(13, max_tokens=12, priority=1)
    sim.run()
    assert low.num_preemptions >= 1
    assert high.num_preemptions == 0


def test_a_preempted_request_finds_what_is_left_of_it_in_the_prefix_cache(simulate):
    sim = simulate(num_blocks=8, block_size=4)
    sim.add(13, max_tokens=12)
    last = sim.add(13, max_tokens=12)
    sim.run()
    resumed = [new for plan in sim.plans for new in plan.new_rows if len(new.token_ids) > new.prompt_len]
    assert last.num_preemptions == len(resumed) > 0
    assert sim.scheduler.stats().num_prefix_hits > 0


def test_a_request_comes_back_when_its_tokens_under_way_are_known(simulate):
    sim = simulate(depth=3, num_blocks=40)
    sim.add(6)
    request = sim.add(6)
    sim.schedule(), sim.schedule()
    sim.scheduler.planner.preempt(sim.scheduler.planner.new_draft())
    assert request.num_pending == 2
    sim.commit()
    assert [new.row for new in sim.schedule().new_rows] == []
    sim.commit()
    (new,) = sim.schedule().new_rows
    assert len(new.token_ids) == 8


def test_admission_counts_what_running_prompts_still_need(simulate):
    sim = simulate(num_blocks=10, block_size=4, budget=20, chunk_multiple=8)
    sim.add(40, max_tokens=1)  # all 10 blocks, in chunks of 16 that leave budget for four tokens
    sim.add(4, max_tokens=1)
    sim.run()
    assert [len(plan.rows) for plan in sim.plans] == [1, 1, 1, 1]
    assert sim.scheduler.stats().num_preemptions == 0


@pytest.mark.parametrize("num_blocks", range(11, 17))
def test_a_prompt_goes_on_as_far_as_blocks_go(simulate, num_blocks):
    """Decodes take the blocks that a long prompt was admitted for; it waits, or gives way, and is completed later."""
    sim = simulate(num_blocks=num_blocks, block_size=4, budget=5, rows=4)
    for _ in range(3):
        sim.add(4, max_tokens=20)
    for _ in range(3):
        sim.step()
    sim.add(32, max_tokens=2)
    outputs = sim.run()
    assert [len(output.token_ids) for output in outputs.values()] == [20, 20, 20, 2]


def test_admission_leaves_the_watermark_free(simulate):
    sim = simulate(num_blocks=16, block_size=4, watermark=0.25)
    sim.add(32, max_tokens=1)  # 8 blocks; 8 are left, 4 of them above the watermark
    sim.add(20, max_tokens=1)  # 5 blocks
    assert len(sim.schedule().rows) == 1


def test_the_watermark_does_not_bind_when_nothing_runs(simulate):
    sim = simulate(num_blocks=16, block_size=4, watermark=0.5)
    sim.add(60, max_tokens=1)
    assert len(sim.schedule().rows) == 1


def test_blocks_are_taken_just_in_time(simulate):
    sim = simulate(block_size=4, budget=10)
    request = sim.add(30, max_tokens=9)
    while not request.is_finished:
        sim.step()
        owned, needed = len(request.block_ids), -(-request.num_computed_tokens // 4)
        assert owned == needed


def test_a_request_may_fill_the_whole_cache(simulate):
    sim = simulate(num_blocks=4, block_size=4, max_model_len=200)
    sim.add(10, max_tokens=None)
    output = sim.run()["r0"]
    assert (len(output.token_ids), output.finish_reason) == (7, "length")  # the last token needs no slot


def test_kv_waste_of_a_typical_load_is_under_three_percent(simulate, make_tokens):
    numbers = random.Random(0)
    sim = simulate(rows=64, budget=2048, num_blocks=4000, block_size=16, max_model_len=1024)
    for index in range(64):
        prompt = make_tokens(numbers.randint(32, 512), seed=index)
        sim.add(prompt, max_tokens=numbers.randint(32, 256))
    sim.run()
    assert 0 < sim.scheduler.stats().kv_waste < 0.03
