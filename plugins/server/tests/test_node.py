"""OpenAI's client for Node, unmodified, against the server. Needs Node and its package `openai`: `nox -s clients`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .busy import PATIENT_S, seconds_when_busy, small_queue

SCRIPT = Path(__file__).parent / "node_client.cjs"
MODULES = os.environ.get("NODE_PATH", "")
pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and (Path(MODULES) / "openai").is_dir()),
    reason="Node, or its package openai in NODE_PATH, is not installed: nox -s clients",
)


def run(running, task):
    """Let the client do something and return what it tells."""
    command = ["node", str(SCRIPT), f"{running.url}/v1", task]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("task", ["completions", "chat"])
def test_what_is_streamed_is_the_whole(demo, task):
    told = run(demo, task)
    assert told["streamed"] == told["whole"] != ""


def test_logprobs_come_with_the_tokens(demo):
    told = run(demo, "logprobs")
    assert "".join(entry["token"] for entry in told["entries"]) == told["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in told["entries"])


def test_embeddings_have_length_one(demo):
    assert run(demo, "embeddings") == pytest.approx([1, 1], rel=1e-3)


def test_responses_are_read(demo):
    assert run(demo, "responses")["text"]


def test_the_model_is_listed(demo):
    assert run(demo, "models") == ["demo"]


def test_errors_are_of_its_own_kinds(demo):
    told = run(demo, "errors")
    assert told["value"] == {"kind": "BadRequestError", "status": 400, "code": "invalid_value", "param": "temperature"}
    assert (told["model"]["kind"], told["model"]["code"]) == ("NotFoundError", "model_not_found")


def test_leaving_a_stream_ends_the_request(demo):
    assert run(demo, "stop") == "left"
    demo.check_rest()


def test_a_full_queue_is_waited_for():
    with small_queue() as running:
        assert seconds_when_busy(running, lambda: run(running, "retry")) >= PATIENT_S
