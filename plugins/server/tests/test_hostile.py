"""Requests that mean no good: each is answered 4xx or cut off, and a stream beside them goes on as if they were not."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress

import pytest

from .harness import local_engine, serving, slow

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
STREAM = {"prompt": [5, 6, 7], "seed": 3, "temperature": 1, "max_tokens": 150, "ignore_eos": True, "stream": True}
PATIENCE_S = 10.0  # the longest that a stream may be silent, on a machine that has much else to do
CUT_OFF = 0  # instead of a status: the connection was closed without an answer


def post(path, body, length=None):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def completion(**fields):
    return post(COMPLETIONS, json.dumps({"prompt": "a", "max_tokens": 2, **fields}).encode())


def nested(depth):
    return b"[" * depth + b"]" * depth


HELLO = b'"messages": [{"role": "user", "content": "a"}], "max_tokens": 2'
ATTACKS = {
    "ten thousand headers": b"GET /health HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
    "a header of a MiB": b"GET /health HTTP/1.1\r\nx: " + b"a" * 2**20 + b"\r\n\r\n",
    "a header without an end": b"GET /health HTTP/1.1\r\nx: " + b"a" * 2**24,
    "an address of a MiB": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01 hello\r\n\r\n",
    "a negative length": post(COMPLETIONS, b"{}", -5),
    "two lengths": post(COMPLETIONS, b"{}").replace(b"Host: x", b"Content-Length: 9"),
    "a chunk that is none": b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "a body without an end": post(COMPLETIONS, b'{"prompt": ', 1000),
    "UTF-16 of a text": post(COMPLETIONS, '{"prompt": "a", "n": "b"}'.encode("utf-16")),
    "lists in lists in a field": post(
        COMPLETIONS, b'{"prompt": "a", "response_format": {"a": ' + nested(50_000) + b"}}"
    ),
    "lists in lists as a prompt": post(COMPLETIONS, b'{"prompt": ' + nested(50_000) + b"}"),
    "objects in objects": post(CHAT, b"{" + HELLO + b', "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
    "half a surrogate pair": post(COMPLETIONS, b'{"prompt": "\\ud83d"}'),
    "a seed past 64 bits": completion(seed=2**64),
    "a priority past 64 bits": completion(priority=2**70),
    "as many choices as atoms": completion(n=2**70),
    "a limit past 64 bits": completion(max_tokens=2**70),
    "fewer logprobs than none": completion(logprobs=-(2**40)),
    "a bias without bound": post(COMPLETIONS, b'{"prompt": "a", "logit_bias": {"5": 1e999}}'),
    "a bias for a token of 5,000 digits": completion(logit_bias={"9" * 5000: 1}),
    "a bias for an Arabic five": completion(logit_bias={"\u0665": 1}),
    "a million biases": completion(logit_bias={str(number): 1 for number in range(1_000_000)}),
    "fifty thousand biases": completion(logit_bias={str(number): 1 for number in range(50_000)}),
    "an empty stop": completion(stop=["", ""]),
    "a hundred thousand stop tokens": completion(stop_token_ids=[-1, *range(100_000)]),
    "a hundred thousand allowed tokens": completion(allowed_token_ids=[5] * 100_000),
    "a name of a MiB": completion(model="m" * 2**20),
    "a field of a MiB": completion(**{"f" * 2**20: 1}),
    "a prompt of four MiB": completion(prompt="hello world " * (2**22 // 12)),
    "a prompt of four MiB without a space": completion(prompt="a" * 2**22),
    "two million nulls as a prompt": completion(prompt=[None] * 2_000_000),
    "two million ids as a prompt": completion(prompt=[5] * 2_000_000),
    "two million ids and a null to decode": post("/detokenize", b'{"tokens": [' + b"5," * 2_000_000 + b"null]}"),
    "two million ids to decode, the last past the vocabulary": post(
        "/detokenize", b'{"tokens": [' + b"5," * 2_000_000 + b"99999999]}"
    ),
    "a million fields": completion(**{f"f{number}": 1 for number in range(1_000_000)}),
    "too many prompts": completion(prompt=["a"] * 20_000),
    "prompts that are too long together": completion(prompt=["hello " * 1500] * 300, n=7),
    "a conversation without an end": post(
        CHAT, b'{"messages": [' + b", ".join([b'{"role": "user", "content": "a"}'] * 10_000) + b"]}"
    ),
    "an id of null bytes": b"GET /v1/responses/" + b"%00" * 1000 + b" HTTP/1.1\r\nConnection: close\r\n\r\n",
}


def status_of(url, data):
    """Send bytes and return the answer's status."""
    host, port = url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        try:
            sock.sendall(data)
            while b"\r\n" not in answer and (more := sock.recv(65536)):
                answer += more
        except ConnectionError:  # it was closed while there was more to send
            pass
    return int(answer.split()[1]) if answer else CUT_OFF


class Watched:
    """A stream, read on a thread: its text, and how long it was silent at most."""

    def __init__(self, running, **fields):
        self._running, self._body = running, {**STREAM, **fields}
        self._thread = threading.Thread(target=self._read)
        self.text, self.longest_silence_s, self.reason = "", 0.0, None
        self.has_begun = threading.Event()

    def __enter__(self):
        self._thread.start()
        assert self.has_begun.wait(60)
        return self

    def __exit__(self, *error):
        self._thread.join(120)

    def _read(self):
        with self._running.http as http, http.stream("POST", COMPLETIONS, json=self._body) as response:
            last = time.monotonic()
            for line in response.iter_lines():
                now = time.monotonic()
                self.longest_silence_s, last = max(self.longest_silence_s, now - last), now
                self.has_begun.set()
                if line.startswith("data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    self.text, self.reason = self.text + choice["text"], choice["finish_reason"]


@pytest.fixture(scope="module")
def attacked():
    """Null tokens depend on the seed and the position only, so the stream's text is known."""
    with serving(local_engine(**slow(2)), body_timeout_s=1.0) as running:
        plain = running.post(COMPLETIONS, {**STREAM, "stream": False}).json()["choices"][0]["text"]
        yield running, plain
        running.check_rest()


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_and_a_stream_beside_it_goes_on(attacked, name):
    running, expected = attacked
    with Watched(running) as watched:
        status = status_of(running.url, ATTACKS[name])
    assert status == CUT_OFF or 400 <= status < 500, status
    assert (watched.text, watched.reason) == (expected, "length")
    assert watched.longest_silence_s < PATIENCE_S


LONG_WORK = {
    "pairs to score": ("/score", {"text_1": "hello " * 1500, "text_2": ["you"] * 200}),
    "a text to score": ("/score", {"text_1": "hello " * 300_000, "text_2": "you"}),
    "ids to decode": ("/detokenize", {"tokens": list(range(5, 105)) * 30_000}),
}


@pytest.mark.parametrize("name", LONG_WORK)
def test_a_stream_does_not_wait_for_long_work_of_the_tokenizer(attacked, name):
    running, _ = attacked
    path, body = LONG_WORK[name]
    with Watched(running, max_tokens=1900) as watched:
        started = time.monotonic()
        running.post(path, body)
        seconds = time.monotonic() - started
        assert watched.reason is None, "the stream was over before the work, so it shows nothing"
    assert watched.longest_silence_s < max(seconds / 2, 0.1)


def test_connections_that_say_nothing_keep_nobody_out(attacked):
    running, expected = attacked
    host, port = running.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    try:
        for number, sock in enumerate(silent):
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"[: number % 40])
        with Watched(running) as watched:
            assert running.get("/health").status_code == 200
        assert watched.text == expected
    finally:
        for sock in silent:
            sock.close()


def test_a_body_that_drips_is_given_up_and_a_stream_beside_it_goes_on(attacked):
    running, expected = attacked
    host, port = running.url.removeprefix("http://").split(":")
    with Watched(running) as watched, socket.create_connection((host, int(port)), timeout=0.1) as sock:
        sock.sendall(post(COMPLETIONS, b"", 1000))
        answer, until = b"", time.monotonic() + 20
        while b"}}" not in answer and time.monotonic() < until:
            with suppress(TimeoutError):
                answer += sock.recv(65536)
            if not answer:
                sock.sendall(b" ")
    assert b" 408 " in answer.split(b"\r\n")[0] and b"body_timeout" in answer
    assert watched.text == expected
