"""What `vllm bench serve` 0.32.0 sends, captured byte by byte, and what it reads from the answers.

Captured from runs against this server: `--dataset-name random`, `--backend openai`, `openai-chat`, `openai-embeddings`,
with and without `--logprobs`; only the host's name was changed.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Captured(NamedTuple):
    head: str
    body: str

    @property
    def path(self) -> str:
        return self.head.split()[1]

    @property
    def asked(self) -> Any:
        return json.loads(self.body) if self.body else None


LINES = (Path(__file__).parent / "data/vllm_bench_serve.jsonl").read_text().splitlines()
CAPTURED = [Captured(**json.loads(line)) for line in LINES]


def replay(url, captured):
    """Send the very bytes; return the whole answer's status, and its body without the transfer's chunks."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        head = captured.head + "\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode("latin-1") + captured.body.encode())
        raw = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), without_chunks(body) if b"chunked" in head.lower() else body


def without_chunks(body):
    joined = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        joined, body = joined + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return joined


def test_the_capture_holds_every_kind_of_request():
    assert {item.path for item in CAPTURED} >= {"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/metrics"}


@pytest.mark.parametrize("captured", CAPTURED, ids=lambda item: item.path)
def test_it_is_answered_as_the_benchmark_reads_it(demo, captured):
    status, body = replay(demo.url, captured)
    assert status == 200, body
    if captured.path == "/metrics":  # it looks for speculation's counters, and takes their absence
        assert b"vllm:num_requests_running" in body
    elif captured.asked.get("stream"):
        check_stream(captured, body)
    elif captured.path == "/v1/embeddings":
        assert json.loads(body)["usage"]["prompt_tokens"] > 0
    else:
        assert json.loads(body)["tokens"]


def check_stream(captured, body):
    """Read as its client does: texts of the first choice, the usage of the last event, then the end."""
    *events, done = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    assert done == b"[DONE]"
    events = [json.loads(event) for event in events]
    is_chat = "messages" in captured.asked
    texts = [c["delta"].get("content") if is_chat else c["text"] for event in events for c in event["choices"]]
    assert "".join(text or "" for text in texts)
    wanted = captured.asked["max_completion_tokens" if is_chat else "max_tokens"]
    assert events[-1]["usage"]["completion_tokens"] <= wanted and len(events) > 2
    if captured.asked.get("ignore_eos"):
        assert events[-1]["usage"]["completion_tokens"] == wanted
