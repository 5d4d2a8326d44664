"""What a step costs in Python, counted instead of timed: calls do not depend on how busy the machine is."""

import gc
import sys

import pytest

from quire.bench.scheduler import Load, measure, measure_all

BLOCK_SIZE = 16


class Calls:
    """Counts calls of Python functions and of C functions while it is entered. No garbage is collected meanwhile."""

    def __enter__(self):
        self.python = self.c = 0
        gc.disable()
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        gc.enable()
        self.python -= 1  # this very call
        self.c -= 1  # setprofile

    def _count(self, frame, event, argument):
        self.python += event == "call"
        self.c += event == "c_call"


def decode_calls(simulate, num_rows, needs_block, depth=1):
    """Count the calls of one steady decode step, schedule and commit together; all rows need a block, or none does."""
    sim = simulate(rows=num_rows, budget=4000, num_blocks=3 * num_rows, block_size=BLOCK_SIZE, depth=depth)
    requests = [sim.add(5, max_tokens=40) for _ in range(num_rows)]
    sim.step()
    while len(sim.in_flight) < depth - 1 or requests[0].num_computed_tokens % BLOCK_SIZE != (0 if needs_block else 9):
        sim.schedule()
        if len(sim.in_flight) == depth:
            sim.commit()
    with Calls() as schedule:
        plan = sim.scheduler.schedule()
    assert len(plan.new_blocks.rows) == (num_rows if needs_block else 0)
    sim.in_flight.append((plan, sim.executor.submit(plan)))
    plan, ticket = sim.in_flight.popleft()
    result = sim.executor.collect(ticket)
    with Calls() as commit:
        sim.scheduler.commit(plan, result)
    return schedule.python + commit.python, schedule.c + commit.c


@pytest.mark.parametrize("depth", [1, 2])
def test_a_decode_step_makes_as_many_calls_for_one_row_as_for_many(simulate, depth):
    assert decode_calls(simulate, 1, False, depth) == decode_calls(simulate, 256, False, depth)


def test_a_decode_step_makes_few_calls(simulate):
    python, c = decode_calls(simulate, 64, needs_block=False)
    assert python <= 40
    assert c <= 25


def test_a_row_that_needs_a_block_costs_few_calls(simulate):
    few, many = decode_calls(simulate, 10, needs_block=True), decode_calls(simulate, 110, needs_block=True)
    python, c = ((after - before) / 100 for before, after in zip(few, many, strict=True))
    assert python <= 5  # four, and one to begin its hash chain
    assert c <= 12


def test_a_request_that_ends_costs_the_others_no_python_call(simulate):
    """Steps under way when a request ends are sorted out in columns too."""

    def calls(num_rows):
        sim = simulate(rows=num_rows, budget=4000, num_blocks=3 * num_rows, block_size=BLOCK_SIZE, depth=2)
        for _ in range(num_rows):
            sim.add(5, max_tokens=30)
        for _ in range(3):
            sim.step()
        sim.schedule()
        sim.scheduler.abort("r0")
        plan, ticket = sim.in_flight.popleft()
        result = sim.executor.collect(ticket)
        with Calls() as commit:
            progress = sim.scheduler.commit(plan, result)
        assert len(progress) == num_rows - 1
        return commit.python

    assert calls(3) == calls(200)


def test_the_benchmark_measures_what_it_says():
    cost = measure(Load(8, 5), num_steps=10)
    assert (cost.load, cost.num_steps) == (Load(8, 5), 10)
    assert 0 < cost.schedule_us < cost.step_us
    assert cost.tokens_per_s > 0
    assert cost.add_us > 0


def test_the_benchmark_goes_through_all_loads():
    assert next(iter(measure_all(num_steps=2))).load == Load(256, 0)
