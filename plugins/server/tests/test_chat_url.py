"""`quire chat --url`: a conversation with a server that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from quire.cli.app import make_app

from .harness import local_engine, serving, slow


def chat(url, said, *options):
    return CliRunner().invoke(make_app(), ["chat", "--url", url, "-m", "6", *options], input=said)


@pytest.fixture(scope="module")
def guarded():
    with serving(local_engine(), api_keys=("secret",)) as running:
        yield running


def test_a_conversation_grows_and_clear_forgets_it(null):
    result = chat(null.url, "one\ntwo\n/clear\none\n/exit\n", "--ignore-eos", "--system", "be brief")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if "prompt " in line]
    lengths = [int(line.split("prompt ")[1].split()[0]) for line in lines]
    assert lengths[0] == lengths[2] < lengths[1] and result.stderr.count("6 tokens in") == 3


def test_the_same_seed_says_the_same_on_both_sides(null):
    command = ["chat", "demo", "--backend", "null", "-m", "6", "--seed", "5", "--ignore-eos"]
    here = CliRunner().invoke(make_app(), command, input="hello\n")
    there = chat(null.url + "/v1/", "hello\n", "--seed", "5", "--ignore-eos")
    assert there.stdout == here.stdout != "> \n> \n"


def test_a_refusal_is_told_and_the_chat_goes_on(null):
    result = chat(null.url, "x " * 5000 + "\nshort\n")
    assert result.exit_code == 0 and "400: the prompt has" in result.stderr and result.stderr.count("tokens in") == 1


def test_a_key_is_sent_from_the_option_or_the_environment(guarded, monkeypatch):
    assert "401" in chat(guarded.url, "hello\n").stderr
    assert chat(guarded.url, "hello\n", "--api-key", "secret").exit_code == 0
    monkeypatch.setenv("QUIRE_API_KEY", "secret")
    assert chat(guarded.url, "hello\n").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["chat"], "--url"),
        (["chat", "--url", "127.0.0.1:1"], "http://"),
        (["chat", "--url", "http://127.0.0.1:1"], "running"),
        (["chat", "--url", "http://127.0.0.1:1", "--backend", "null"], "backend"),
    ],
)
def test_what_cannot_be_talked_to_is_told(arguments, word):
    result = CliRunner().invoke(make_app(), arguments, input="")
    assert result.exit_code in (1, 2) and word in result.stderr


def test_ctrl_c_stops_an_answer_and_frees_its_blocks():
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from quire.cli import main; main()"
    with serving(local_engine(**slow(5))) as running:
        command = [sys.executable, "-c", code, "chat", "--url", running.url, "-m", "1500", "--ignore-eos"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONUTF8": "1"}) as process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.read(3)  # the input prompt, and the answer's first character
            running.wait_until(lambda stats: stats.num_running == 1)
            process.send_signal(signal.SIGINT)
            running.check_rest()
            _, stderr = process.communicate(b"/exit\n", timeout=60)
        assert process.returncode == 0 and b"stopped" in stderr
