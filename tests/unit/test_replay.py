"""A recording replays to the same plans, or says where it does not."""

import dataclasses
import json
import random

import msgspec
import pytest

from quire.errors import QueueFullError, RecordingError
from quire.scheduling.recording import RecordingScheduler
from quire.scheduling.replay import replay
from quire.scheduling.scheduler import Scheduler


@pytest.fixture
def recording(simulate, tmp_path):
    """A busy half a minute: groups, preemptions, aborts, refusals, a failure, a reset."""
    path = tmp_path / "run.jsonl"
    sim = simulate(depth=2, num_blocks=30, policy="priority", max_queued_requests=9, record=str(path))
    numbers = random.Random(0)
    for index in range(7):
        prompt = [numbers.randrange(3) for _ in range(numbers.randint(1, 30))]
        for sibling in "ab":
            try:
                sim.add(
                    prompt,
                    request_id=f"{index}{sibling}",
                    max_tokens=20,
                    priority=index % 3,
                    group=f"g{index}",
                    eos={11},
                )
            except QueueFullError:
                for _ in range(6):
                    sim.step()
    sim.add(9, request_id="pooled", pooling="mean")
    sim.scheduler.abort("3a")
    sim.scheduler.reset_prefix_cache()
    sim.schedule()
    sim.commit(errors={0: "NaN"})
    sim.run()
    sim.scheduler.close()
    yield path, sim


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def rewrite(path, change):
    """Apply `change(line)` to every line; one that is None is left out."""
    changed = [change(line) for line in lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in changed if line is not None))


def test_a_recording_replays_to_the_same_plans(recording):
    path, sim = recording
    report = replay(path)
    assert report.divergence is None
    assert report.num_steps == len(sim.plans)
    assert report.plan_hash == [line for line in lines(path) if line["kind"] == "schedule"][-1]["hash"]


def test_the_recorded_run_had_everything_in_it(recording):
    path, sim = recording
    kinds = {line["kind"] for line in lines(path)}
    assert kinds == {"header", "add", "finish", "reset_prefix_cache", "schedule", "commit"}
    assert any(line.get("refused") == "QueueFullError" for line in lines(path))
    assert sim.scheduler.stats().num_preemptions > 0


def test_another_token_shows_as_another_plan(recording):
    path, _ = recording
    changed = []

    def end_early(line):
        if line["kind"] == "commit" and line["step"] == 4:
            changed.append(line["token_ids"])
            line["token_ids"] = [[11] if tokens else [] for tokens in line["token_ids"]]
        return line

    rewrite(path, end_early)
    divergence = replay(path).divergence
    assert changed
    assert divergence.step >= 4
    assert "freed_rows" in divergence.fields


def test_another_setting_shows_at_the_first_step_it_touches(recording):
    path, _ = recording

    def smaller_budget(line):
        if line["kind"] == "header":
            line["config"]["max_num_batched_tokens"] = 8
        return line

    rewrite(path, smaller_budget)
    divergence = replay(path).divergence
    assert (divergence.step, "counts" in divergence.fields) == (0, True)
    assert "step 0 differs in" in str(divergence)


def test_a_missing_arrival_shows(recording):
    path, _ = recording
    rewrite(path, lambda line: None if line.get("request_id") == "0a" else line)
    assert replay(path).divergence is not None


def test_a_refusal_that_does_not_come_shows(recording):
    path, _ = recording

    def endless_queue(line):
        if line["kind"] == "header":
            line["config"]["max_queued_requests"] = None
        return line

    rewrite(path, endless_queue)
    assert "refusal of" in replay(path).divergence.fields[0]


@pytest.mark.parametrize("text", ["", "{}\n", '{"kind": "reset_prefix_cache"}\n', "not json\n"])
def test_a_file_that_is_no_recording_is_refused(tmp_path, text):
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(RecordingError):
        replay(path)


def test_recording_is_another_class_so_that_it_costs_nothing_when_off(simulate, tmp_path):
    assert type(simulate().scheduler) is Scheduler
    sim = simulate(record=str(tmp_path / "x"))
    assert type(sim.scheduler) is RecordingScheduler
    sim.scheduler.close()


def test_a_header_holds_all_that_the_scheduler_was_built_from(recording):
    path, sim = recording
    header = lines(path)[0]
    assert msgspec.convert(header["facts"], type(sim.facts)) == sim.facts
    assert header["config"] == json.loads(msgspec.json.encode(dataclasses.asdict(sim.config)))
