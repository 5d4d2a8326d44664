"""Requests that are refused, come, are aborted and are counted. The null device checks every plan on the way."""

import pytest

from quire.errors import QueueFullError, RequestError


def test_an_empty_prompt_is_refused(simulate):
    with pytest.raises(RequestError, match="at least one token"):
        simulate().add([])


def test_a_prompt_that_leaves_no_room_is_refused(simulate):
    with pytest.raises(RequestError, match="has 20 tokens; at most 19"):
        simulate(max_model_len=20).add(20)


def test_a_prompt_larger_than_the_cache_is_refused(simulate):
    with pytest.raises(RequestError, match="5 blocks of 4"):
        simulate(num_blocks=5, block_size=4).add(21)


def test_an_id_in_use_is_refused(simulate):
    sim = simulate()
    sim.add(4, request_id="x")
    with pytest.raises(RequestError, match="in use") as caught:
        sim.add(4, request_id="x")
    assert caught.value.param == "request_id"


def test_an_id_can_be_used_again_after_its_end(simulate):
    sim = simulate()
    for _ in range(2):
        sim.add(4, request_id="x")
        sim.scheduler.abort("x")
    assert not sim.scheduler.has_work


def test_a_full_queue_refuses(simulate):
    sim = simulate(max_queued_requests=1)
    sim.add(4)
    with pytest.raises(QueueFullError):
        sim.add(4)
    sim.step()
    sim.add(4)


def test_an_abort_frees_blocks_at_once_and_the_row_with_the_next_plan(simulate):
    sim = simulate()
    gone, _ = sim.add(9), sim.add(9)
    sim.step()
    row, used = gone.row, sim.scheduler.pool.num_used
    sim.scheduler.abort("r0")
    assert sim.scheduler.pool.num_used < used
    assert sim.schedule().freed_rows == (row,)


def test_a_freed_row_is_given_again_in_the_same_plan(simulate):
    sim = simulate(rows=1)
    sim.add(9)
    sim.step()
    sim.scheduler.abort("r0")
    sim.add(9)
    plan = sim.schedule()
    assert (plan.freed_rows, plan.new_rows[0].row) == ((0,), 0)


def test_an_abort_of_a_waiting_request_leaves_the_others(simulate):
    sim = simulate(rows=1)
    for _ in range(3):
        sim.add(5)
    sim.step()
    sim.scheduler.abort("r1")
    assert sim.scheduler.num_waiting == 1
    assert sim.run()["r2"].finish_reason == "length"


def test_an_abort_of_nobody_is_ignored(simulate):
    assert simulate().scheduler.abort("nobody") is None


def test_tokens_under_way_are_dropped_with_an_abort(simulate):
    sim = simulate(depth=2)
    sim.add(5)
    sim.add(5)
    sim.schedule(), sim.schedule()
    sim.scheduler.abort("r0")
    assert [item.request.request_id for item in sim.commit() + sim.commit()] == ["r1", "r1"]


def test_a_stop_from_outside_drops_what_was_sampled_after_it(simulate):
    sim = simulate(depth=2)
    request = sim.add(5)
    sim.schedule(), sim.schedule()
    sim.commit()
    assert sim.scheduler.finish("r0", "stop") is request
    assert sim.commit() == []
    assert (request.num_output_tokens, request.finish_reason) == (1, "stop")


def test_stats_count_what_happened(simulate, make_tokens):
    sim = simulate(block_size=4)
    sim.add(make_tokens(16), max_tokens=3)
    sim.step()
    running = sim.scheduler.stats()
    assert (running.num_running, running.num_waiting, running.kv_usage) == (1, 0, 4 / 64)
    sim.run()
    sim.add(make_tokens(16), max_tokens=1)
    sim.run()
    stats = sim.scheduler.stats()
    assert (stats.num_steps, stats.num_scheduled_tokens) == (4, 16 + 2 + 1)
    assert (stats.num_prefix_queries, stats.num_prefix_hits, stats.prefix_hit_rate) == (32, 15, 15 / 32)


@pytest.mark.parametrize("other", [{"lora_id": 1}, {"cache_salt": "x"}, {}])
def test_a_group_of_different_prompts_is_refused(simulate, make_tokens, other):
    sim = simulate()
    sim.add(make_tokens(9), group="g")
    with pytest.raises(RequestError, match="another prompt, LoRA or cache salt"):
        sim.add(make_tokens(9, seed=0 if other else 1), group="g", **other)
