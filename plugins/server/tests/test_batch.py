"""`quire run-batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from quire.cli.app import make_app

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"


def line(custom_id, url, body, method="POST"):
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": body})


def run(folder, lines, *options):
    """Run the command; return it, and its answers."""
    asked, told = folder / "in.jsonl", folder / "out.jsonl"
    asked.write_text("\n".join(lines))
    command = ["run-batch", "-i", str(asked), "-o", str(told), "demo", "--backend", "null", *options]
    result = CliRunner().invoke(make_app(), command)
    answers = [json.loads(text) for text in told.read_text().splitlines()] if told.exists() else []
    return result, answers


def responses(answers):
    """Return the responses by custom_id."""
    return {answer["custom_id"]: answer["response"] for answer in answers if answer["response"] is not None}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A batch in which some lines are good and some are not."""
    lines = [
        line("text", COMPLETIONS, {"model": "mine", "prompt": "a", "max_tokens": 3, "ignore_eos": True, "seed": 1}),
        line("chat", CHAT, {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}),
        line("vector", EMBEDDINGS, {"input": ["a", "b"]}),
        "",
        line("wrong", COMPLETIONS, {"prompt": "a", "temprature": 1}),
        line("text", COMPLETIONS, {"prompt": "b"}),
        "{half a line",
        line("elsewhere", "/metrics", {}),
        line("stream", COMPLETIONS, {"prompt": "a", "stream": True}),
        line("list", COMPLETIONS, []),
    ]
    return run(tmp_path_factory.mktemp("batch"), lines, "--served-model-name", "mine")


def test_each_kind_of_line_is_answered_as_the_server_would(mixed):
    found = responses(mixed[1])
    assert all(found[name]["status_code"] == 200 for name in ("text", "chat", "vector"))
    assert found["text"]["body"]["usage"]["completion_tokens"] == 3
    assert found["chat"]["body"]["object"] == "chat.completion" and len(found["vector"]["body"]["data"]) == 2
    assert found["chat"]["request_id"] in found["chat"]["body"]["id"]


def test_a_refused_request_keeps_its_status_and_its_error(mixed):
    refused = responses(mixed[1])["wrong"]
    assert refused["status_code"] == 400 and refused["body"]["error"]["param"] == "temprature"


def test_a_line_that_is_no_request_says_why(mixed):
    errors = [(answer["custom_id"], answer["error"]["code"]) for answer in mixed[1] if answer["error"] is not None]
    assert sorted(errors, key=str) == [
        ("elsewhere", "invalid_url"),
        ("list", "invalid_line"),
        ("stream", "stream_unsupported"),
        ("text", "duplicate_custom_id"),
        (None, "invalid_line"),
    ]


def test_failed_lines_are_counted_and_fail_the_command(mixed):
    result, _ = mixed
    assert result.exit_code == 1 and "9 requests, 6 failed" in result.stderr


def test_hundreds_of_lines_are_all_answered_with_their_own_tokens(tmp_path):
    """Null tokens depend on the seed and the position only."""
    body = {"prompt": [5], "max_tokens": 4, "ignore_eos": True, "temperature": 1}
    lines = [line(f"{number}", COMPLETIONS, {**body, "seed": number % 7}) for number in range(300)]
    result, answers = run(tmp_path, lines, "--max-num-seqs", "16")
    assert result.exit_code == 0 and len(answers) == 300
    texts = {name: item["body"]["choices"][0]["text"] for name, item in responses(answers).items()}
    assert len(set(texts.values())) == 7
    assert all(texts[str(number)] == texts[str(number % 7)] for number in range(300))


def test_a_file_that_is_not_there_is_told(tmp_path):
    command = ["run-batch", "-i", str(tmp_path / "no.jsonl"), "-o", str(tmp_path / "out.jsonl"), "demo"]
    result = CliRunner().invoke(make_app(), command)
    assert result.exit_code == 2 and "no.jsonl" in result.stderr
