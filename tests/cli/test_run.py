"""`quire run` on a made-up model: text to stdout, notes to stderr, errors in a line."""

import json
import re
import shutil

import pytest

from quire.cli.run import TurnPrinter
from quire.outputs import CompletionOutput, RequestMetrics, RequestOutput


def output(request_id: str, text: str, finished: bool = False) -> RequestOutput:
    completion = CompletionOutput(index=0, text=text, token_ids=[1], finish_reason="stop" if finished else None)
    metrics = RequestMetrics(arrival_time=0.0)
    return RequestOutput(
        request_id=request_id, prompt="", prompt_token_ids=[1], outputs=[completion], finished=finished, metrics=metrics
    )


def test_the_same_seed_gives_the_same_text_and_only_the_text_on_stdout(quire, model, on_reference):
    results = [quire("run", model, "hello", "-m", "8", "--seed", "3", *on_reference) for _ in range(2)]
    assert results[0].exit_code == 0
    assert results[0].stdout == results[1].stdout
    assert len(results[0].stdout) > 1
    assert "8 tokens in" in results[0].stderr


def test_several_prompts_are_told_in_their_order(quire, model, on_reference):
    result = quire("run", model, "first", "second", "-m", "4", *on_reference)
    assert result.stdout.index("== first\n") < result.stdout.index("== second\n")


def test_a_prompt_may_come_from_stdin(quire, model, on_reference):
    piped = quire("run", model, "-m", "8", "-t", "0", *on_reference, stdin="hello\n")
    given = quire("run", model, "hello", "-m", "8", "-t", "0", *on_reference)
    assert piped.stdout == given.stdout


def test_each_line_of_stdin_may_be_a_prompt_and_answers_may_be_json(quire, model, on_reference):
    result = quire("run", model, "--lines", "--json", "-m", "3", *on_reference, stdin="one\n\ntwo\n")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["one", "two"]
    assert [len(answer["outputs"][0]["token_ids"]) for answer in answers] == [3, 3]


def test_chat_puts_the_prompt_through_the_template(quire, model, on_reference):
    result = quire("run", model, "hi", "--chat", "--json", "-m", "1", *on_reference)
    assert json.loads(result.stdout)["prompt"] == "<user>hi<assistant>"


def test_quiet_tells_nothing_but_the_text(quire, model, on_reference):
    assert quire("run", model, "hello", "-q", "-m", "2", *on_reference).stderr == ""


def test_stats_tell_memory_as_planned_and_as_measured(quire, model, on_reference):
    told = quire("run", model, "hello", "--stats", "-m", "2", *on_reference).stderr
    planned, measured = re.search(r"memory: planned ([\d.]+) MiB, measured ([\d.]+) MiB", told).groups()
    assert float(planned) == pytest.approx(float(measured), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--temperature", "-1"), 2, "temperature"),
        (("--dtype", "float3"), 2, "float3"),
        (("--max-num-seqs", "0"), 2, "max_num_seqs is 0; it must be at least 1"),
        (("--memory", "lots"), 2, "no amount of memory"),
        (("--backend-option", "threads"), 2, "say NAME=VALUE"),
        (("--backend-option", "colour=red"), 2, "colour"),
        (("--backend", "nope"), 1, "there is no backend 'nope'"),
        (("--tokenizer", "/no/such/folder"), 1, "/no/such/folder"),
    ],
)
def test_a_wrong_setting_is_told_in_a_line_without_a_traceback(quire, model, on_reference, arguments, code, told):
    result = quire("run", model, "hello", *on_reference, *arguments)
    assert result.exit_code == code
    assert told in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output


def test_sampling_that_no_model_could_serve_is_refused_before_one_is_loaded(quire):
    result = quire("run", "/no/such/folder", "hello", "--top-p", "2")
    assert result.stderr == "error: top_p is 2.0; it must be in (0, 1]\n"


def test_an_empty_stdin_is_refused(quire, model, on_reference):
    result = quire("run", model, *on_reference, stdin="")
    assert result.exit_code == 2
    assert "stdin is empty" in result.stderr


@pytest.mark.parametrize(
    ("prompt", "told"),
    [("", "the prompt is empty; give at least one token"), ("x" * 256, "shorten it to 255 or fewer")],
)
def test_a_prompt_that_cannot_be_served_is_told_with_what_can(quire, model, on_reference, prompt, told):
    result = quire("run", model, prompt, *on_reference)
    assert result.exit_code == 2
    assert result.stderr.strip().endswith(told)


def test_an_unknown_architecture_is_told_in_one_line_with_those_that_are_known(quire, model, on_reference, tmp_path):
    config = {"architectures": ["FooForCausalLM"], "model_type": "foo"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    last = quire("run", str(tmp_path), "hello", *on_reference).stderr.splitlines()[-1]
    assert last.startswith("error: FooForCausalLM is not native and cannot run through transformers: ")
    assert "Use a newer transformers that has it, or one of Gemma2ForCausalLM" in last


def test_a_model_that_runs_through_transformers_is_told(quire, model, on_reference, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm"}
    (folder / "config.json").write_text(json.dumps(config))
    told = "StableLmForCausalLM is not native: it runs through transformers' code"
    assert told in quire("run", str(folder), "hello", "-m", "2", *on_reference).stderr
    assert "not native" not in quire("run", model, "hello", "-m", "2", *on_reference).stderr


def test_a_folder_that_is_not_there_is_told_as_one(quire):
    result = quire("run", "./no-such-folder", "hello", "--backend", "reference")
    assert result.exit_code == 1
    assert "there is no folder ./no-such-folder" in result.stderr


def test_an_unknown_model_is_told_with_what_would_be_one(quire):
    result = quire("run", "no-such-model", "hello", "--backend", "reference")
    assert result.exit_code == 1
    assert "no model 'no-such-model'" in result.stderr


def test_debug_lets_the_traceback_through(quire):
    result = quire("--debug", "run", "no-such-model", "hello", "--backend", "reference")
    assert type(result.exception).__name__ == "ModelError"


def test_interleaved_answers_come_out_one_after_the_other():
    printer = TurnPrinter(["a", "b"])
    assert printer.pieces(output("1", "B1")) == ["== a\n"]
    assert printer.pieces(output("0", "A1")) == ["A1"]
    assert printer.pieces(output("1", "B2", finished=True)) == []
    assert printer.pieces(output("0", "A2", finished=True)) == ["A2", "\n", "== b\n", "B1", "B2", "\n"]
