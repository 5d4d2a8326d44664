"""Requests come, go and are aborted at any moment, with up to three steps under way: nothing leaks, nobody starves."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule


def machine(simulate):
    class SchedulerMachine(RuleBasedStateMachine):
        @initialize(
            depth=st.integers(1, 3),
            rows=st.integers(1, 6),
            num_blocks=st.integers(12, 40),
            caching=st.booleans(),
            mixes=st.booleans(),
            policy=st.sampled_from(["fcfs", "priority"]),
        )
        def open(self, depth, rows, num_blocks, caching, mixes, policy):
            self.sim = simulate(
                depth=depth,
                rows=rows,
                budget=19,
                num_blocks=num_blocks,
                enable_prefix_caching=caching,
                mix_prefill_decode=mixes,
                policy=policy,
                max_model_len=48,
            )
            self.pending = {}

        @rule(
            begins=st.integers(0, 1),
            length=st.integers(1, 30),
            max_tokens=st.integers(1, 17),
            size=st.integers(1, 3),
            priority=st.integers(-1, 1),
        )
        def come(self, begins, length, max_tokens, size, priority):
            prompt = [(begins + position) % 997 for position in range(length)]
            group = f"group {len(self.sim.outputs)}"
            for _ in range(size):
                request = self.sim.add(prompt, max_tokens=max_tokens, priority=priority, group=group)
                self.pending[request.request_id] = request

        @precondition(lambda self: self.pending)
        @rule(data=st.data(), reason=st.sampled_from(["abort", "stop"]))
        def go(self, data, reason):
            request_id = data.draw(st.sampled_from(sorted(self.pending)))
            self.sim.scheduler.finish(request_id, reason)
            del self.pending[request_id]

        @rule()
        def abort_all(self):
            for request_id in self.pending:
                self.sim.scheduler.abort(request_id)
            self.pending.clear()

        @precondition(lambda self: len(self.sim.in_flight) < self.sim.facts.max_in_flight)
        @rule()
        def schedule(self):
            self.sim.schedule()

        @precondition(lambda self: self.sim.in_flight)
        @rule()
        def commit(self):
            self.forget_finished(self.sim.commit())

        @rule()
        def reset_prefix_cache(self):
            self.sim.scheduler.reset_prefix_cache()

        @invariant()
        def everything_is_accounted_for(self):
            if hasattr(self, "sim"):
                self.sim.scheduler.check_integrity()
                assert self.sim.scheduler.has_work == bool(self.pending)

        def forget_finished(self, progress):
            for item in progress:
                assert item.request.request_id in self.pending, "news of a request that is gone"
                if item.finish_reason:
                    del self.pending[item.request.request_id]

        def teardown(self):
            """What is left finishes in bounded time, and leaves no block behind."""
            if not hasattr(self, "sim"):
                return
            for _ in range(200 * (len(self.pending) + 1)):
                if not (self.pending or self.sim.in_flight):
                    break
                self.forget_finished(self.sim.step())
            assert not self.pending
            assert self.sim.scheduler.pool.num_used == 0
            self.sim.scheduler.check_integrity()

    return SchedulerMachine


def test_an_abort_storm_leaves_nothing_behind(simulate):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine(simulate), settings=settings(max_examples=120, stateful_step_count=50, deadline=None)
    )
