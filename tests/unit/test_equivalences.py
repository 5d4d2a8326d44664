"""However requests are scheduled, they say the same: the null device's tokens depend on seed and position alone, and it
verifies the content of every slot that is read, so a wrong position, block or copy would show."""

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

EOS = frozenset({11, 12, 13, 14, 15, 16, 17, 18, 19})  # about one token in a hundred ends an output

PLAIN = {"rows": 64, "budget": 10_000, "num_blocks": 300, "block_size": 16, "enable_prefix_caching": False}
OTHER = {"rows": 64, "budget": 500, "num_blocks": 200, "block_size": 4, "enable_prefix_caching": False}
WAYS = {
    "chunked": {"budget": 7},
    "preempted": {"num_blocks": 34},
    "overlapped": {"depth": 2},
    "overlapped by three": {"depth": 3},
    "few rows": {"rows": 3},
    "cached": {"enable_prefix_caching": True},
    "large blocks": {"block_size": 16, "num_blocks": 300},
    "blocks of one": {"block_size": 1, "num_blocks": 140, "enable_prefix_caching": True},
    "preempted, overlapped and cached": {"num_blocks": 34, "depth": 2, "enable_prefix_caching": True},
    "everything": {"num_blocks": 36, "depth": 3, "enable_prefix_caching": True, "budget": 11, "rows": 5},
    "by priority": {"policy": "priority", "num_blocks": 36, "rows": 5},
    "prefill apart": {"mix_prefill_decode": False, "num_blocks": 36, "depth": 2, "enable_prefix_caching": True},
    "one prefill at a time": {"max_prefill_requests": 1, "chunk_multiple": 8, "budget": 16, "num_blocks": 36},
    "buckets": {"token_buckets": (4, 16), "row_buckets": (2, 4), "enable_prefix_caching": True},
}


def load(sim, seed, num_requests=24):
    """Queue requests of which many begin alike, some come in groups, and some end early."""
    numbers = random.Random(seed)
    common = [numbers.randrange(997) for _ in range(70)]
    for index in range(num_requests):
        length = numbers.randint(1, 60)
        shared = numbers.randint(0, length)
        prompt = common[:shared] + [numbers.randrange(997) for _ in range(length - shared)]
        for sibling in range(numbers.choice((1, 1, 1, 3))):
            sim.add(
                prompt,
                request_id=f"{index}/{sibling}",
                max_tokens=numbers.randint(1, 40),
                seed=numbers.getrandbits(64),
                eos=EOS,
                priority=numbers.randint(-1, 1),
                group=f"group {index}",
            )


def outputs(simulate, seed, settings):
    sim = simulate(**settings)
    load(sim, seed)
    return sim.run()


@pytest.fixture(scope="session")
def plain_outputs(simulate):
    return functools.cache(lambda seed: outputs(simulate, seed, PLAIN))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_way_of_scheduling_gives_the_tokens_of_the_plain_one(simulate, plain_outputs, way, seed):
    assert outputs(simulate, seed, {**OTHER, **WAYS[way]}) == plain_outputs(seed)


def test_the_plain_way_never_preempts_and_shares_nothing(simulate):
    sim = simulate(**PLAIN)
    load(sim, seed=0)
    sim.run()
    stats = sim.scheduler.stats()
    assert (stats.num_preemptions, stats.num_cached_blocks) == (0, 0)


@pytest.mark.parametrize("way", ["preempted", "preempted, overlapped and cached", "everything"])
def test_the_tight_ways_do_preempt(simulate, way):
    sim = simulate(**{**OTHER, **WAYS[way]})
    load(sim, seed=0)
    sim.run()
    assert sim.scheduler.stats().num_preemptions > 5


def test_a_cache_hit_gives_the_tokens_of_a_cold_run(simulate, make_tokens):
    cold, warm = simulate(), simulate()
    cold.add(make_tokens(33), request_id="x", seed=5)
    for request_id in ("before", "x"):
        warm.add(make_tokens(33), request_id=request_id, seed=5)
        warm.run()
    assert warm.scheduler.stats().num_prefix_hits == 32
    assert warm.outputs["x"] == cold.run()["x"]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_siblings_give_the_tokens_of_separate_requests(simulate, make_tokens, caching, depth):
    together = simulate(depth=depth, enable_prefix_caching=caching, num_blocks=30)
    for index in range(4):
        together.add(make_tokens(21), request_id=f"x{index}", seed=100 + index, group="x", max_tokens=20)
    for index in range(4):
        alone = simulate()
        alone.add(make_tokens(21), request_id=f"x{index}", seed=100 + index, max_tokens=20)
        assert together.run()[f"x{index}"] == alone.run()[f"x{index}"]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9),
    depth=st.integers(1, 3),
    rows=st.integers(1, 9),
    extra_budget=st.integers(0, 40),
    num_blocks=st.integers(26, 60),
    caching=st.booleans(),
    mixes=st.booleans(),
    chunk_multiple=st.sampled_from([1, 4, 8]),
    max_prefills=st.sampled_from([None, 1, 2]),
    policy=st.sampled_from(["fcfs", "priority"]),
    watermark=st.sampled_from([0.0, 0.1]),
)
def test_any_mixture_of_limits_gives_the_tokens_of_the_plain_way(
    simulate,
    plain_outputs,
    seed,
    depth,
    rows,
    extra_budget,
    num_blocks,
    caching,
    mixes,
    chunk_multiple,
    max_prefills,
    policy,
    watermark,
):
    limits = {
        "depth": depth,
        "rows": rows,
        "budget": max(rows, chunk_multiple) + extra_budget,
        "num_blocks": num_blocks,
        "block_size": 4,
        "enable_prefix_caching": caching,
        "mix_prefill_decode": mixes,
        "chunk_multiple": chunk_multiple,
        "max_prefill_requests": max_prefills,
        "policy": policy,
        "watermark": watermark,
    }
    assert outputs(simulate, seed, limits) == plain_outputs(seed)
