"""`quire plan` says what the engine then does."""

import json

import pytest
import typer

from quire.bench.engine_run import open_for_bench
from quire.bench.shapes import open_model
from quire.cli.options import parse_bytes, parse_pairs

LIMITS = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "memory_bytes": 2**29}


def planned(quire, model, *arguments: str) -> dict:
    result = quire("plan", model, "--backend", "reference", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_plan_is_what_the_engine_then_takes(quire):
    plan = planned(quire, "r100m", "--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--memory", "512MiB")
    settings = {**LIMITS, "backend": "reference", "max_model_len": None}
    with open_model("r100m") as model, open_for_bench(model, settings) as opened:
        report, facts = opened.engine.executor.memory_report(), opened.engine.facts
    assert plan["num_blocks"] == facts.num_blocks
    assert plan["kv_bytes"] == report["kv"]
    assert plan["weights_bytes"] == report["weights"]
    assert plan["total_bytes"] == pytest.approx(sum(report.values()), rel=0.05)


def test_a_built_in_shape_needs_no_model_folder(quire):
    plan = planned(quire, "r600m", "--memory", "8GiB")
    assert plan["num_parameters"] == 596_049_920
    assert plan["block_bytes"] // plan["block_size"] == 2 * 28 * 8 * 128 * 4
    assert plan["kv_tokens"] == plan["num_blocks"] * plan["block_size"]


def test_without_memory_the_device_is_asked(quire, model):
    assert planned(quire, model)["budget_bytes"] > 2**28


def test_without_a_device_to_ask_the_memory_must_be_given(quire, model):
    pytest.importorskip("quire_neuron")
    result = quire("plan", model, "--backend", "neuron")
    assert result.exit_code == 1
    assert "say what it would have, e.g. --memory" in result.stderr.splitlines()[-1]


def test_the_table_is_for_people(quire, model):
    result = quire("plan", model, "--backend", "reference", "--memory", "64MB")
    assert "requests of that length at once" in result.stdout


def test_what_does_not_fit_is_told_with_what_is_missing(quire):
    result = quire("plan", "r600m", "--backend", "reference", "--memory", "2GiB")
    assert result.exit_code == 1
    assert "does not fit" in result.stderr


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("24GiB", 24 * 2**30), ("800MB", 800 * 10**6), ("1.5k", 1500), ("1024", 1024), (" 2 gib ", 2**31), ("7B", 7)],
)
def test_amounts_of_memory_are_read(text, wanted):
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "1XB", "one"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(typer.BadParameter, match="no amount of memory"):
        parse_bytes(text)


def test_a_value_may_hold_an_equals_sign():
    assert parse_pairs(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
