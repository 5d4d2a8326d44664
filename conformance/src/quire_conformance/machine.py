"""Hypothesis plays the scheduler: seats, chunks, decodes, frees and copies in any order, on target and reference.

After every step both must have sampled the same tokens, and hold the same keys and values for every computed position.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from quire_conformance.target import Target
from quire_conformance.twins import Twins

NUM_EXAMPLES, NUM_STEPS = 8, 12
SETTINGS = settings(
    max_examples=NUM_EXAMPLES,
    stateful_step_count=NUM_STEPS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),  # to shrink a play means to run it hundreds of times; the message names row and position
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def run_machine(target: Target, block_size: int) -> None:
    """Play on one pair of executors; raise AssertionError with the first play that shows a difference."""
    with Twins(target, block_size) as twins:
        run_state_machine_as_test(lambda: Play(twins), settings=SETTINGS)  # type: ignore[arg-type]


class Play(RuleBasedStateMachine):
    """One play. It begins and ends with no row taken, so that executors serve many."""

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        self.twins = twins

    @precondition(lambda self: self.twins.free_rows)
    @rule(sixteenths=st.integers(1, 60), share=st.floats(0, 1))
    def seat(self, sixteenths: int, share: float) -> None:
        """A request comes and computes the first part of its prompt."""
        length = max(1, sixteenths * self.twins.block_size // 16)
        row = self.twins.seat(length)
        self._compute({row: max(1, round(share * length))})

    @precondition(lambda self: self.twins.seats)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        """Some rows go on: a chunk of a prompt, or one token."""
        rows = data.draw(st.sets(st.sampled_from(sorted(self.twins.seats)), min_size=1))
        left = {row: len(seat.tokens) - seat.num_computed for row, seat in self.twins.seats.items()}
        self._compute({row: data.draw(st.integers(1, left[row])) for row in sorted(rows)})

    @rule()
    def decode(self) -> None:
        """Every row that has one token left computes it."""
        seats = self.twins.seats.items()
        self._compute({row: 1 for row, seat in seats if len(seat.tokens) - seat.num_computed == 1})

    @precondition(lambda self: self.twins.seats)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.twins.free(data.draw(st.sampled_from(sorted(self.twins.seats))))

    def teardown(self) -> None:
        for row in list(self.twins.seats):
            self.twins.free(row)

    def _compute(self, counts: dict[int, int]) -> None:
        counts = {row: count for row, count in counts.items() if self.twins.can_compute(row, count)}
        for row in [row for row in self.twins.seats if row not in counts and not self.twins.table(row)]:
            self.twins.free(row)  # it was seated, and there is no room for it
        if not counts:
            return
        for step in self.twins.allowed_steps(counts):
            self._compute_step(step)

    def _compute_step(self, counts: dict[int, int]) -> None:
        found, right = self.twins.compute(counts)
        # Keys and values first: a row that is not finite, or another token, may come of bytes that nobody wrote.
        problem = self.twins.kv_problem()
        assert not problem, problem
        assert not found.errors, f"the executor reports {found.errors} on sound input"
        assert found.token_ids == right.token_ids, (
            f"rows {sorted(counts)} computing {counts} gave tokens {found.token_ids}, the reference {right.token_ids}"
        )
