"""Clients that are slow, loud or broken on the level of HTTP: each is refused in the one shape, and disturbs nobody."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager

import pytest

from quire_server.middleware import MAX_NAMES, count_names

from .harness import local_engine, read_events, serving, slow

COMPLETIONS = "/v1/completions"
LIMITS = {"max_header_bytes": 4096, "header_timeout_s": 0.5, "body_timeout_s": 0.5, "max_connections": 40}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def tight():
    with serving(local_engine(**slow(5)), max_body_bytes=20_000, **LIMITS) as running:
        yield running
        running.check_rest()


@contextmanager
def connected(running):
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        yield sock


def read_all(sock):
    """Return all that comes until the server closes the connection."""
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:  # it closed while more was on its way to it
        pass
    return b"".join(parts)


def refusal(sock):
    """Return status and error of an answer after which the connection is closed."""
    head, _, body = read_all(sock).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert "connection: close" in lines and "content-type: application/json" in lines, head
    return int(lines[0].split()[1]), json.loads(body)["error"]


def test_headers_that_never_end_are_given_up(tight):
    with connected(tight) as sock:
        started = time.monotonic()
        sock.sendall(HEAD + b"X-A: ")
        status, error = refusal(sock)
    assert (status, error["code"]) == (408, "headers_timeout") and 0.4 < time.monotonic() - started < 5


def test_headers_that_trickle_are_given_up_as_soon(tight):
    with connected(tight) as sock:
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started < 10:
                sock.sendall(b"G")
                time.sleep(0.05)
    assert time.monotonic() - started < 5


def test_a_connection_that_says_nothing_is_closed(tight):
    with connected(tight) as sock:
        assert read_all(sock) == b""


def test_one_that_is_kept_alive_may_ask_again_after_a_pause(tight):
    ask = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
    with connected(tight) as sock:
        for _ in range(2):
            sock.sendall(ask)
            answer = b""
            while not answer.endswith(b"}"):
                answer += sock.recv(65536)
            assert b" 200 " in answer
            time.sleep(0.7)


@pytest.mark.parametrize(
    "flood",
    [b"X-A: " + b"a" * 5000 + b"\r\n", b"".join(b"X-%d: a\r\n" % i for i in range(600)), b"X-A: " + b"a" * 500_000],
    ids=["one long", "many", "one without end"],
)
def test_a_flood_of_headers_is_refused(tight, flood):
    with connected(tight) as sock:
        try:
            sock.sendall(HEAD + flood + b"\r\n")
        except OSError:
            return  # it was closed before all was sent
        try:
            status, error = refusal(sock)
        except json.JSONDecodeError:
            return
    assert (status, error["code"]) == (431, "headers_too_large") and "4096" in error["message"]


def test_a_long_url_is_refused(tight):
    assert tight.get("/v1/models/" + "a" * 5000).status_code == 431


@pytest.mark.parametrize("text", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_not_http_is_told_so(tight, text):
    with connected(tight) as sock:
        sock.sendall(text)
        status, error = refusal(sock)
    assert (status, error["code"]) == (400, "invalid_http")


def test_a_body_that_trickles_is_refused_and_its_connection_closed(tight):
    with connected(tight) as sock:
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        status, error = refusal(sock)
    assert (status, error["code"]) == (408, "body_timeout")


def test_a_body_that_is_too_large_is_refused_and_its_connection_closed(tight):
    with connected(tight) as sock:
        sock.sendall(HEAD + b"Content-Length: 9999999\r\n\r\n{")
        status, error = refusal(sock)
    assert (status, error["code"]) == (413, "body_too_large")


def test_a_body_of_too_many_fields_is_refused_before_it_is_read(null):
    body = {"prompt": "a", "logit_bias": {str(number): 1 for number in range(MAX_NAMES)}}
    answer = null.post(COMPLETIONS, body)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_many_fields"


@pytest.mark.parametrize("field", ["logit_bias", "stop_token_ids"])
def test_a_field_of_too_many_entries_is_refused(null, field):
    entries = {str(number): 1 for number in range(2000)} if field == "logit_bias" else list(range(2000))
    answer = null.post(COMPLETIONS, {"prompt": "a", field: entries})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field) and "1024" in error["message"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"a": 1, "b": {"c": [{"": ": "}]}, "d": 'e":'}, 5),
        ({"prompt": json.dumps({"quoted": {"in": "a string"}})}, 1),
        (["a:", ": b", '":', "", {"ž": None}], 1),
        ([], 0),
    ],
)
def test_names_are_counted_without_reading_the_body(value, names):
    for separators in (None, (",", ":"), (" , ", " :\n")):
        assert count_names(json.dumps(value, separators=separators, ensure_ascii=False).encode()) == names


def test_both_a_length_and_chunks_are_refused(tight):
    """Proxies and servers that read such a request differently can be played against each other."""
    with connected(tight) as sock:
        sock.sendall(HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert refusal(sock)[0] == 400


def test_streams_of_others_go_on_under_all_of_it(tight):
    body = {"prompt": [5], "max_tokens": 200, "ignore_eos": True, "stream": True}
    alone = read_events(tight.post(COMPLETIONS, {**body, "seed": 1}))
    with tight.http as http, http.stream("POST", COMPLETIONS, json={**body, "seed": 1}) as response:
        lines = response.iter_lines()
        first = [next(lines)]
        socks = [socket.create_connection(tuple(tight.url.removeprefix("http://").split(":"))) for _ in range(30)]
        for index, sock in enumerate(socks):
            sock.sendall([HEAD + b"X-A: ", b"\x00" * 100, HEAD + b"Content-Length: 9\r\n\r\n{"][index % 3])
        rest = [line for line in lines if line]
        for sock in socks:
            sock.close()
    events = [json.loads(line.removeprefix("data: ")) for line in [*first, *rest] if "[DONE]" not in line]
    text = "".join(event["choices"][0]["text"] for event in events)
    assert text == "".join(event["choices"][0]["text"] for event in alone)


def test_more_connections_than_the_limit_are_refused_and_come_in_when_there_is_room(tight):
    host, port = tight.url.removeprefix("http://").split(":")
    socks = [socket.create_connection((host, int(port)), timeout=20) for _ in range(40)]
    try:
        with connected(tight) as sock:
            status, error = refusal(sock)
        assert (status, error["code"]) == (503, "too_many_connections")
    finally:
        for sock in socks:
            sock.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert tight.get("/health").status_code == 200
            return
        except (AssertionError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
