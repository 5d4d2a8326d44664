"""`quire bench`: that it measures what it says, not how fast this machine is."""

import json
from types import SimpleNamespace

import pytest

from quire.bench import machine
from quire.bench.machine import MachineLimits, ModelCost
from quire.bench.peer_transformers import run
from quire.bench.shapes import open_model
from quire.bench.workload import Workload, make_workload
from quire.models.registry import read_spec


def test_the_workload_is_the_one_that_peers_were_measured_on():
    workload = make_workload()
    assert (len(workload.prompts), workload.prompt_tokens, workload.output_tokens) == (64, 16_225, 8_726)
    assert min(map(min, workload.prompts)) >= 3


def test_repetitions_have_equal_lengths_and_other_tokens():
    first, second = make_workload(0), make_workload(1)
    assert list(map(len, first.prompts)) == list(map(len, second.prompts))
    assert first.prompts[0] != second.prompts[0]


def test_a_small_vocabulary_bounds_the_tokens():
    assert max(map(max, make_workload(vocab_size=100).prompts)) < 100


@pytest.mark.parametrize(("shape", "parameters"), [("r100m", 100_684_032), ("r600m", 596_049_920)])
def test_built_in_shapes_have_the_size_in_their_name(shape, parameters):
    with open_model(shape) as model:
        assert read_spec(model.path).num_parameters == parameters


def test_limits_follow_from_products_and_from_bytes_read():
    cost = ModelCost(layer_ops=100, head_ops=50, weight_bytes=10)
    limits = MachineLimits(flops=1000.0, read_bytes=500.0)
    assert machine.throughput_limit(limits, cost, prompt_tokens=30, output_tokens=10) == pytest.approx(10 / 4.5)
    assert machine.decode_limit(limits, cost) == 50


def test_the_cost_of_a_tied_model_counts_its_embedding_once():
    with open_model("r100m") as model:
        spec = read_spec(model.path)
        cost = machine.model_cost(model.path, spec, 4)
    assert cost.weight_bytes == spec.num_parameters * 4
    assert cost.layer_ops + cost.head_ops == 2 * spec.num_parameters


def test_throughput_counts_every_token(quire, model_of_long_context, on_reference, monkeypatch):
    monkeypatch.setattr(machine, "measure_machine", lambda: MachineLimits(1e9, 1e9))
    arguments = ("--requests", "2", "--reps", "2", *on_reference, "--json")
    result = quire("bench", "throughput", model_of_long_context, *arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["num_requests"], len(told["seconds"])) == (2, 2)
    assert told["output_tokens"] == make_workload(0, 2).output_tokens
    assert told["tokens_per_s"] == pytest.approx(told["output_tokens"] / (sum(told["seconds"]) / 2))
    assert 0 < told["kv_waste"] < 0.2


def test_latency_times_one_request_alone(quire, model, on_reference, monkeypatch):
    monkeypatch.setattr(machine, "measure_machine", lambda: MachineLimits(1e9, 1e9))
    arguments = ("--reps", "1", "--prompt", "8", "--max-model-len", "200", *on_reference)
    result = quire("bench", "latency", model, *arguments)
    assert result.exit_code == 0, result.output
    assert "first token, prompt of 8" in result.stdout


def test_startup_names_its_stages(quire, model, on_reference):
    result = quire("bench", "startup", model, "--max-model-len", "200", *on_reference, "--json")
    stages = [stage["stage" if "stage" in stage else "name"] for stage in json.loads(result.stdout)]
    assert stages[0].startswith("start Python")
    assert "first token of a prompt of 32" in stages


def test_scheduler_needs_no_model(quire):
    result = quire("bench", "scheduler", "--steps", "3", "--json")
    assert [cost["load"]["num_running"] for cost in json.loads(result.stdout)] == [256, 1024, 1024]


def test_the_machine_can_be_measured():
    limits = machine.measure_machine()
    assert limits.flops > 1e8
    assert limits.read_bytes > 1e8


def test_an_unknown_peer_is_refused(quire):
    result = quire("bench", "throughput", "--against", "nobody")
    assert result.exit_code == 2
    assert "transformers" in result.stderr


class SlowManager:
    """Gives one token a result, and never finishes the second request."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self._results = [("a", 2, True), ("b", 1, False)]

    def add_request(self, prompt, **options) -> str:
        return "ab"[len(prompt) - 1]

    def get_result(self, timeout):
        if not self._results:
            return None
        name, count, done = self._results.pop(0)
        return SimpleNamespace(request_id=name, generated_tokens=[0] * count, error=None, is_finished=lambda: done)

    def is_running(self) -> bool:
        return True

    def cancel_request(self, name: str) -> None:
        self.cancelled.append(name)


def test_what_a_peer_has_done_at_its_time_limit_counts():
    manager = SlowManager()
    assert run(manager, Workload([[1], [1, 2]], [2, 9]), limit_s=0.05) == 3
    assert manager.cancelled == ["b"]
