"""What need not be computed: cached prefixes, prompts of a group. The null device checks every plan on the way."""

import pytest


def counts(plan):
    return plan.counts.tolist()


# -- prefix cache ------------------------------------------------------------------------------------------------------


def test_of_a_prompt_that_is_cached_whole_only_the_last_token_is_computed(simulate, make_tokens):
    sim = simulate(block_size=4)
    sim.add(make_tokens(16), max_tokens=1)
    sim.run()
    again = sim.add(make_tokens(16), max_tokens=1)
    plan = sim.schedule()
    assert (plan.starts.tolist(), counts(plan), again.num_cached_tokens) == ([15], [1], 15)


def test_a_cached_block_is_copied_before_its_last_token_is_written_again(simulate, make_tokens):
    sim = simulate(block_size=4)
    sim.add(make_tokens(16), max_tokens=1)
    sim.run()
    again = sim.add(make_tokens(16), max_tokens=1)
    plan = sim.schedule()
    ((source, target),) = plan.block_copies.tolist()
    assert again.block_ids[-1] == target != source


def test_a_cached_prefix_is_shared_and_the_rest_computed(simulate, make_tokens):
    sim = simulate(block_size=4)
    first = sim.add(make_tokens(18), max_tokens=9)
    sim.step()
    second = sim.add([*make_tokens(13), 1, 2, 3, 4])
    plan = sim.schedule()
    assert second.num_cached_tokens == 12
    assert second.block_ids[:3] == first.block_ids[:3]
    assert plan.starts.tolist() == [18, 12]


def test_requests_that_come_together_compute_a_common_prefix_once(simulate, make_tokens):
    sim = simulate(block_size=4, rows=4)
    for tail in range(4):
        sim.add([*make_tokens(16), tail])
    plans = [sim.schedule() for _ in range(1)]
    sim.commit()
    plans.append(sim.schedule())
    assert [counts(plan) for plan in plans] == [[17], [1, 1, 1, 1]]


def test_nobody_waits_for_a_prefix_that_saves_little(simulate, make_tokens):
    sim = simulate(block_size=4, rows=4)
    for tail in range(3):
        sim.add([*make_tokens(4), *make_tokens(12, seed=50 + tail)])
    assert counts(sim.schedule()) == [16, 16, 16]


def test_without_prefix_caching_everything_is_computed(simulate, make_tokens):
    sim = simulate(enable_prefix_caching=False)
    for _ in range(2):
        sim.add(make_tokens(16), max_tokens=1)
    assert counts(sim.schedule()) == [16, 16]


@pytest.mark.parametrize("other", [{"cache_salt": "b"}, {"lora_id": 2}])
def test_tenants_and_adapters_do_not_share(simulate, make_tokens, other):
    sim = simulate()
    sim.add(make_tokens(16), max_tokens=1, cache_salt="a", lora_id=1)
    sim.run()
    second = sim.add(make_tokens(16), max_tokens=1, **{"cache_salt": "a", "lora_id": 1, **other})
    sim.run()
    assert second.num_cached_tokens == 0


def test_prompt_logprobs_need_every_position(simulate, make_tokens):
    sim = simulate()
    sim.add(make_tokens(16), max_tokens=1)
    sim.run()
    second = sim.add(make_tokens(16), max_tokens=1, prompt_logprobs=1)
    assert counts(sim.schedule()) == [16]
    assert second.num_cached_tokens == 0


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_generated_tokens_are_cached_too(simulate, make_tokens, depth):
    sim = simulate(block_size=4, depth=depth)
    first = sim.add(make_tokens(6), max_tokens=11)
    sim.run()
    second = sim.add([*first.token_ids, 1], max_tokens=1)
    sim.run()
    assert second.num_cached_tokens == 16  # of 17; the last one sampled was never computed


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_a_running_request_generated_can_be_found(simulate, make_tokens, depth):
    sim = simulate(block_size=4, depth=depth)
    first = sim.add(make_tokens(6), max_tokens=30)
    while first.num_tokens < 15:
        sim.step()
    second = sim.add([*first.token_ids, 1], max_tokens=1)
    sim.step()
    sim.step()
    assert second.num_cached_tokens == 12


def test_prompt_logprobs_that_were_handed_out_need_not_be_computed_again(simulate, make_tokens):
    sim = simulate(block_size=4)
    sim.add(make_tokens(9), prompt_logprobs=1)
    sim.schedule()
    sim.commit(prompt_logprobs={0: tuple(range(8))})
    sim.scheduler.planner.preempt(sim.scheduler.planner.new_draft())
    assert sim.schedule().starts.tolist() == [8]


# -- reset -------------------------------------------------------------------------------------------------------------


def cached_tokens(sim, prompt):
    """Return how much of a prompt is found in the cache."""
    request = sim.add(prompt, max_tokens=1)
    sim.run()
    return request.num_cached_tokens


def test_after_a_reset_nothing_is_found(simulate, make_tokens):
    sim = simulate(block_size=4)
    running = sim.add(make_tokens(16), max_tokens=20)
    sim.step()
    assert sim.scheduler.reset_prefix_cache() == 4
    for _ in range(6):
        sim.step()
    assert cached_tokens(sim, [*running.token_ids, 1]) == 0


def test_a_request_that_began_before_a_reset_offers_nothing_after_it(simulate, make_tokens):
    sim = simulate(block_size=4)
    running = sim.add(make_tokens(3), max_tokens=9)
    sim.step()
    sim.scheduler.reset_prefix_cache()
    sim.run()
    assert cached_tokens(sim, [*running.token_ids, 1]) == 0


def test_a_request_that_waited_through_a_reset_offers_what_it_computes(simulate, make_tokens):
    sim = simulate(block_size=4, num_blocks=12)
    sim.add(make_tokens(30, seed=9), max_tokens=4)
    waiting = sim.add(make_tokens(20), max_tokens=2)
    sim.step()
    assert waiting.block_hashes  # it was considered, and did not fit
    sim.scheduler.reset_prefix_cache()
    sim.run()
    assert cached_tokens(sim, [*make_tokens(20), 1]) == 20


def test_a_request_preempted_after_a_reset_offers_what_it_computes_again(simulate, make_tokens):
    sim = simulate(block_size=4)
    sim.add(make_tokens(20), max_tokens=4)
    sim.step()
    sim.scheduler.reset_prefix_cache()
    sim.scheduler.planner.preempt(sim.scheduler.planner.new_draft())
    sim.run()
    assert cached_tokens(sim, [*make_tokens(20), 1]) == 20


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching", [True, False])
def test_a_group_computes_its_prompt_once(simulate, make_tokens, caching):
    sim = simulate(block_size=4, enable_prefix_caching=caching)
    for index in range(3):
        sim.add(make_tokens(14), group="g", seed=index)
    sim.step()
    assert counts(sim.schedule()) == [1, 1, 1]
    assert sim.plans[0].num_tokens == 14


def test_siblings_share_the_full_blocks_and_copy_the_last(simulate, make_tokens):
    sim = simulate(block_size=4)
    leader, sibling = (sim.add(make_tokens(14), group="g", seed=index) for index in range(2))
    sim.step()
    plan = sim.schedule()
    assert sibling.block_ids[:3] == leader.block_ids[:3]
    assert plan.block_copies.tolist() == [[leader.block_ids[3], sibling.block_ids[3]]]


def test_no_block_is_copied_for_a_prompt_whose_last_token_begins_one(simulate, make_tokens):
    sim = simulate(block_size=4)
    for index in range(2):
        sim.add(make_tokens(13), group="g", seed=index)
    sim.step()
    assert len(sim.schedule().block_copies) == 0


def test_a_group_goes_on_without_its_leader(simulate, make_tokens):
    sim = simulate(block_size=4)
    for index in range(3):
        sim.add(make_tokens(14), group="g", seed=index)
    sim.scheduler.abort("r0")
    outputs = sim.run()
    assert [outputs[name].finish_reason for name in ("r1", "r2")] == ["length", "length"]


def test_a_groups_name_can_be_used_again(simulate, make_tokens):
    sim = simulate(block_size=4, enable_prefix_caching=False)
    for _ in range(2):
        for index in range(2):
            sim.add(make_tokens(14), group="g", seed=index)
        sim.run()
    assert [plan.num_tokens for plan in sim.plans if plan.new_rows] == [14, 2, 14, 2]
