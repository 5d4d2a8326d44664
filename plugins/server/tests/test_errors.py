"""What is refused: always a 4xx in OpenAI's shape, which says what to change. Nothing of it reaches the engine."""

from __future__ import annotations

import pytest

from .harness import local_engine, read_events, serving, slow

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]

REFUSED = {
    "a field that does not exist": (COMPLETIONS, {"prompt": "a", "temprature": 1}, "temprature", "unknown_parameter"),
    "no prompt": (COMPLETIONS, {"max_tokens": 1}, "prompt", "missing_required_parameter"),
    "a prompt of the wrong type": (COMPLETIONS, {"prompt": 7}, "prompt", "invalid_type"),
    "an empty batch": (COMPLETIONS, {"prompt": []}, "prompt", "invalid_value"),
    "an empty prompt of ids": (COMPLETIONS, {"prompt": [[]]}, "prompt", "invalid_value"),
    "a token id past the vocabulary": (COMPLETIONS, {"prompt": [99999999]}, "prompt", "invalid_value"),
    "a token id past 64 bits": (COMPLETIONS, {"prompt": [2**70]}, "prompt", "invalid_value"),
    "a number as text": (COMPLETIONS, {"prompt": "a", "max_tokens": "5"}, "max_tokens", "invalid_type"),
    "no tokens": (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_value"),
    "n of zero": (COMPLETIONS, {"prompt": "a", "n": 0}, "n", "invalid_value"),
    "too hot": (COMPLETIONS, {"prompt": "a", "temperature": -0.1}, "temperature", "invalid_value"),
    "top_p of zero": (COMPLETIONS, {"prompt": "a", "top_p": 0}, "top_p", "invalid_value"),
    "a bias for no token": (COMPLETIONS, {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    "a suffix": (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix", "unsupported"),
    "best of several": (COMPLETIONS, {"prompt": "a", "best_of": 3}, "best_of", "unsupported"),
    "too many logprobs": (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "logprobs", "invalid_value"),
    "stream options without a stream": (COMPLETIONS, {"prompt": "a", "stream_options": {}}, None, "invalid_value"),
    "no messages": (CHAT, {"messages": []}, "messages", "invalid_type"),
    "a picture": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages",
        "unsupported",
    ),
    "top_logprobs without logprobs": (CHAT, {"messages": HELLO, "top_logprobs": 2}, None, "invalid_value"),
    "tools": (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools", "unsupported"),
    "a JSON schema": (
        CHAT,
        {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format",
        "unsupported",
    ),
    "an unknown format": (
        CHAT,
        {"messages": HELLO, "response_format": {"type": "xml"}},
        "response_format",
        "invalid_value",
    ),
    "a template of its own": (CHAT, {"messages": HELLO, "chat_template": "{{ 1 }}"}, "chat_template", "unsupported"),
    "too many at once": (COMPLETIONS, {"prompt": ["a", "b"], "n": 1025}, "n", "invalid_value"),
    "dimensions": ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions", "unsupported"),
    "texts that do not pair": ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1", "invalid_value"),
    "an id to decode past the vocabulary": ("/detokenize", {"tokens": [-1]}, "tokens", "invalid_value"),
    "text and conversation at once": ("/tokenize", {"prompt": "a", "messages": HELLO}, None, "invalid_value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(null, name):
    path, body, param, code = REFUSED[name]
    answer = null.post(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
    assert error["type"] == "invalid_request_error" and error["message"]


MALFORMED = {
    "half a JSON": b'{"prompt": "a"',
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "nothing": b"",
    "a list": b"[1, 2]",
    "very deep": b"[" * 100_000,
    "not a number": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": Infinity}',
    "a huge number": b'{"prompt": "a", "max_tokens": 1' + b"0" * 400 + b"}",
    "a huge exponent": b'{"prompt": "a", "temperature": 1e999}',
    "half a surrogate pair": b'{"prompt": "\\ud800"}',
    "half a surrogate pair in a name": b'{"prompt": "a", "\\ud800": 1}',
    "half a surrogate pair as a number": b'{"prompt": "a", "n": "\\udfff"}',
    "a null byte in a name": b'{"prompt": "a", "\\u0000": 1}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body_is_a_clear_400(null, name):
    with null.http as http:
        answer = http.post(COMPLETIONS, content=MALFORMED[name], headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/v1/messages", "/v1/embeddings"])
@pytest.mark.parametrize("field", ["model", "f" * 10_000], ids=["a model", "a field"])
def test_what_a_client_sent_is_not_told_back_without_end(null, path, field):
    needed = {"prompt": "a"} if path == COMPLETIONS else {"messages": HELLO, "max_tokens": 1}
    needed = {"input": "a"} if path == "/v1/embeddings" else needed
    answer = null.post(path, {"model": "demo", **needed, field: "m" * 10_000})
    assert answer.status_code in (400, 404) and len(answer.content) < 2000, answer.text
    assert "characters more" in answer.json()["error"]["message"]


def test_the_end_of_an_error_is_told_whatever_a_client_sent(null):
    message = null.post(COMPLETIONS, {"prompt": "a", "model": "m" * 10_000}).json()["error"]["message"]
    assert message.startswith("there is no model 'mmm") and message.endswith("this server has demo")


def test_a_prompt_too_long_names_both_numbers(null):
    error = null.post(COMPLETIONS, {"prompt": [5] * 2049}).json()["error"]
    assert "2049" in error["message"] and "2048" in error["message"]
    assert error["code"] == "context_length_exceeded" and error["param"] == "prompt"


def test_more_tokens_than_the_context_has_left_are_refused_with_what_is_left(null):
    error = null.post(COMPLETIONS, {"prompt": [5] * 2000, "max_tokens": 49}).json()["error"]
    assert "2000" in error["message"] and "49" in error["message"] and "48" in error["message"]
    assert error["code"] == "context_length_exceeded" and error["param"] == "max_tokens"


def test_a_default_limit_shrinks_to_what_is_left(null):
    answer = null.post(COMPLETIONS, {"prompt": [5] * 2045, "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 3


def test_what_the_backend_refuses_is_a_400_for_streams_too(null):
    for stream in (False, True):
        answer = null.post(COMPLETIONS, {"prompt": "a", "logprobs": 1, "stream": stream})
        assert answer.status_code == 400 and "null backend" in answer.json()["error"]["message"]


def test_tools_that_must_not_be_called_do_no_harm(null):
    body = {"messages": HELLO, "tools": [{"type": "function"}], "tool_choice": "none", "max_tokens": 1}
    assert null.post(CHAT, body).status_code == 200


def test_an_unknown_route_and_a_wrong_method_are_told_in_the_same_shape(null):
    assert null.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
    answer = null.get(COMPLETIONS)
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"


def test_what_nobody_foresaw_is_a_500_that_tells_no_secrets(null, monkeypatch):
    def fail(name):
        raise ZeroDivisionError("a secret of the inside")

    with monkeypatch.context() as patch:
        patch.setattr(null.frontend, "check_model", fail)
        answer = null.post(COMPLETIONS, {"prompt": "a"}, headers={"X-Request-Id": "mine"})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "internal_server_error"
    assert "secret" not in answer.text and answer.headers["x-request-id"] == "mine"


def test_a_body_that_is_not_called_json_is_told_so(null):
    with null.http as http:
        answer = http.post(COMPLETIONS, content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def small():
    """A server with tight limits."""
    engine = local_engine(**slow(20), max_num_seqs=1, max_queued_requests=2)
    with serving(engine, max_body_bytes=2000, body_timeout_s=0.5) as running:
        yield running


class TestLimits:
    def test_a_large_body_is_refused_by_its_length(self, small):
        answer = small.post(COMPLETIONS, {"prompt": "a" * 3000})
        assert answer.status_code == 413 and "2000" in answer.json()["error"]["message"]

    def test_a_large_body_without_a_length_is_refused_too(self, small):
        with small.http as http:
            answer = http.post(COMPLETIONS, content=(b"a" * 500 for _ in range(5)))
        assert answer.status_code == 413

    def test_a_body_that_never_ends_is_refused(self, small):
        import socket

        host, port = small.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            assert b" 408 " in sock.recv(4096).split(b"\r\n")[0]

    def test_a_full_queue_answers_429_and_when_to_come_back(self, small):
        long = {"prompt": [5], "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with small.http as http, http.stream("POST", COMPLETIONS, json=long):
            small.wait_until(lambda stats: stats.num_running == 1)
            answer = small.post(COMPLETIONS, {"prompt": [[5], [6], [7]], "max_tokens": 1})
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "queue_full"
            small.wait_until(lambda stats: stats.num_waiting == 0)  # those that were let in have been taken out
        small.check_rest()

    def test_others_go_on_while_one_is_refused(self, small):
        with small.http as http:
            body = {"prompt": [5], "max_tokens": 20, "ignore_eos": True, "stream": True}
            with http.stream("POST", COMPLETIONS, json=body) as response:
                assert small.post(COMPLETIONS, {"prompt": 1}).status_code == 400
                response.read()
            assert len(read_events(response)) > 0
