"""How outputs end, and what goes with their tokens. The null device checks every plan on the way."""

import dataclasses

import numpy as np
import pytest

from quire.errors import BackendError
from quire.plan import TokenLogprobs

# -- the end of an output ----------------------------------------------------------------------------------------------


def predicted(simulate, count=12, **options):
    """Return what a request of this shape says when nothing stops it."""
    sim = simulate()
    sim.add(5, request_id="p", max_tokens=count, seed=77, **options)
    return sim.run()["p"].token_ids


def first_repeatless(token_ids, start):
    """Return an index from `start` whose token was not said before."""
    return next(i for i in range(start, len(token_ids)) if token_ids[i] not in token_ids[:i])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_end_of_sequence_ends_the_output_and_is_part_of_it(simulate, depth):
    said = predicted(simulate)
    at = first_repeatless(said, 3)
    sim = simulate(depth=depth)
    sim.add(5, max_tokens=12, seed=77, eos={said[at]})
    output = sim.run()["r0"]
    assert (output.token_ids, output.finish_reason) == (said[: at + 1], "stop")


def test_end_of_sequence_can_be_ignored(simulate):
    said = predicted(simulate)
    sim = simulate()
    sim.add(5, max_tokens=12, seed=77, eos={said[3]}, ignore_eos=True)
    assert sim.run()["r0"].token_ids == said


def test_a_stop_token_is_the_reason(simulate):
    said = predicted(simulate)
    at = first_repeatless(said, 2)
    sim = simulate()
    sim.add(5, max_tokens=12, seed=77, stop_token_ids=[said[at]])
    sim.run()
    assert (sim.progress[-1].finish_reason, sim.progress[-1].stop_reason) == ("stop", said[at])


def test_the_models_own_end_gives_no_reason(simulate):
    said = predicted(simulate)
    sim = simulate()
    sim.add(5, max_tokens=12, seed=77, eos={said[2]})
    sim.run()
    assert (sim.progress[-1].finish_reason, sim.progress[-1].stop_reason) == ("stop", None)


def test_a_stop_token_before_min_tokens_does_not_end_the_output(simulate):
    said = predicted(simulate)
    sim = simulate()
    sim.add(5, max_tokens=12, seed=77, eos={said[0]}, min_tokens=4)
    assert len(sim.run()["r0"].token_ids) >= 4


def test_a_stop_token_of_one_request_does_not_end_another(simulate):
    said = predicted(simulate)
    sim = simulate()
    sim.add(5, request_id="stops", max_tokens=12, seed=77, stop_token_ids=[said[4]])
    sim.add(5, request_id="goes on", max_tokens=12, seed=77)
    outputs = sim.run()
    assert outputs["goes on"].token_ids == said
    assert outputs["stops"].finish_reason == "stop"


@pytest.mark.parametrize("depth", [1, 2])
def test_the_longest_sequence_is_max_model_len(simulate, depth):
    sim = simulate(depth=depth, max_model_len=20)
    sim.add(15, max_tokens=None)
    output = sim.run()["r0"]
    assert (len(output.token_ids), output.finish_reason) == (5, "length")


def test_nothing_is_computed_past_the_last_token(simulate):
    sim = simulate(depth=3)
    sim.add(6, max_tokens=4)
    sim.run()
    assert sum(plan.num_tokens for plan in sim.plans) == 6 + 3


def test_a_row_with_broken_numbers_fails_alone(simulate, make_tokens):
    sim = simulate(block_size=4)
    bad, good = sim.add(8), sim.add(9)
    plan = sim.schedule()
    tokens = tuple(() if row == bad.row else (5,) for row in plan.rows.tolist())
    progress = sim.commit(token_ids=tokens, errors={plan.rows.tolist().index(bad.row): "NaN"})
    assert [(item.request, item.finish_reason, item.error) for item in progress] == [
        (bad, "error", "NaN"),
        (good, None, None),
    ]
    again = sim.add(make_tokens(8, seed=0))
    assert sim.scheduler.schedule() is not None
    assert again.num_cached_tokens == 0


def test_a_decode_with_broken_numbers_fails_alone(simulate):
    sim = simulate(block_size=4)
    bad, good = sim.add(9), sim.add(8)
    sim.step()
    sim.schedule()
    progress = sim.commit(token_ids=((), (5,)), errors={0: "NaN"})
    assert [(item.request, item.new_token_ids) for item in progress] == [(bad, ()), (good, (5,))]


def test_a_block_completed_by_a_broken_decode_is_not_cached(simulate, make_tokens):
    sim = simulate(block_size=4)
    request = sim.add(make_tokens(7))
    sim.step()
    sim.schedule()
    sim.commit(token_ids=((),), errors={0: "NaN"})
    sim.add(request.token_ids[:5], max_tokens=1)  # computes the block before it again, rightly
    sim.run()
    again = sim.add([*request.token_ids, 1])
    sim.schedule()
    assert again.num_cached_tokens == 4


def test_an_abort_while_the_last_token_is_under_way_is_an_abort(simulate):
    sim = simulate(depth=2)
    request = sim.add(5, max_tokens=2)
    sim.add(5)
    sim.schedule(), sim.schedule()
    sim.scheduler.abort("r0")
    sim.commit(), sim.commit()
    assert (request.finish_reason, sim.outputs["r0"].token_ids) == ("abort", [])


def test_a_result_without_a_token_for_each_decode_is_the_backends_fault(simulate):
    sim = simulate()
    sim.add(4)
    sim.step()
    sim.schedule()
    with pytest.raises(BackendError, match="not one token for each"):
        sim.commit(token_ids=((),))


def draft_three(sim, request):
    """Schedule a prompt with three drafts behind it, as speculation will."""
    plan = sim.schedule()
    _, ticket = sim.in_flight.pop()
    sim.scheduler.ledger.compute(request, 3, samples=False)
    sim.in_flight.append((dataclasses.replace(plan, counts=plan.counts + 3, drafts={0: (1, 2, 3)}), ticket))


def test_a_row_may_take_several_tokens_in_one_step(simulate):
    sim = simulate(block_size=16)
    request = sim.add(4, max_tokens=9)
    draft_three(sim, request)
    (item,) = sim.commit(token_ids=((1, 2, 50),))
    assert item.new_token_ids == (1, 2, 50)
    assert (request.num_tokens, request.num_computed_tokens, request.num_pending) == (7, 6, 0)


def test_tokens_after_the_end_are_dropped(simulate):
    sim = simulate(block_size=16)
    request = sim.add(4, max_tokens=2)
    draft_three(sim, request)
    (item,) = sim.commit(token_ids=((1, 2, 50),))
    assert (item.new_token_ids, item.finish_reason) == ((1, 2), "length")


# -- logprobs and pooling ----------------------------------------------------------------------------------------------


def fake_logprobs(count):
    return tuple(TokenLogprobs(np.array([i], np.int32), np.zeros(1, np.float32), 1) for i in range(count))


def test_logprobs_go_with_their_tokens(simulate):
    sim = simulate()
    sim.add(4, logprobs=1)
    sim.add(4)
    sim.step()
    sim.schedule()
    found = fake_logprobs(1)
    progress = sim.commit(logprobs={0: found})
    assert [item.logprobs for item in progress] == [found, None]


def test_prompt_logprobs_are_handed_out_once_though_a_prompt_is_computed_twice(simulate):
    sim = simulate(budget=8, num_blocks=40)
    request = sim.add(20, prompt_logprobs=1)
    handed_out = []
    for count, preempt_after in ((8, True), (8, False), (8, False), (3, False)):
        sim.schedule()
        progress = sim.commit(prompt_logprobs={0: fake_logprobs(count)})
        handed_out += [len(item.prompt_logprobs or ()) for item in progress]
        if preempt_after:
            sim.scheduler.planner.preempt(sim.scheduler.planner.new_draft())
    assert (handed_out, request.num_reported_logprobs) == ([8, 8, 3], 19)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_pooling_request_ends_with_its_prompt(simulate, pooling, depth):
    sim = simulate(depth=depth, budget=8)
    sim.add(17, pooling=pooling)  # two chunks and one token
    sim.add(1, pooling=pooling)
    sim.add(5, max_tokens=3)
    outputs = sim.run()
    assert [outputs[name].token_ids for name in ("r0", "r1")] == [[], []]
    assert len(outputs["r2"].token_ids) == 3
    done = [item for item in sim.progress if item.embedding is not None]
    assert {item.request.request_id for item in done} == {"r0", "r1"}


def test_a_mean_needs_every_position(simulate, make_tokens):
    sim = simulate()
    for pooling in ("last", "mean"):
        request = sim.add(make_tokens(16), pooling=pooling)
        sim.run()
    assert request.num_cached_tokens == 0
