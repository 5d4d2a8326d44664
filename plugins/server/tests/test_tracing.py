"""Traces: one span a request, with the GenAI attributes; nothing of it where it is not wanted."""

from __future__ import annotations

import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from quire.errors import ConfigError
from quire_server.tracing import open_traces

from .harness import local_engine, serving, slow

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def traced():
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="pip install 'quire-server[otel]' brings it")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with serving(local_engine(**slow(2)), traces=provider) as running:
        yield running, exporter


@pytest.fixture
def ask(traced):
    """Ask, and return the one span that came of it."""
    running, exporter = traced

    def post(path, body, **headers):
        exporter.clear()
        running.post(path, body, headers=headers)
        running.check_rest()
        (span,) = exporter.get_finished_spans()
        return span

    return post


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_span_with_what_was_asked_and_what_came(ask, stream):
    body = {"prompt": [5] * 7, "max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "zzz", "n": 2}
    span = ask("/v1/completions", {**body, "ignore_eos": True, "stream": stream}, **{"X-Request-Id": "mine"})
    found = span.attributes
    assert span.name == "text_completion demo" and span.kind.name == "SERVER"
    assert found["gen_ai.operation.name"] == "text_completion" and found["gen_ai.request.model"] == "demo"
    assert found["gen_ai.request.max_tokens"] == 4 and found["gen_ai.request.temperature"] == 0.5
    assert found["gen_ai.request.seed"] == 3 and found["gen_ai.request.choice.count"] == 2
    assert found["gen_ai.request.stop_sequences"] == ("zzz",)
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (7, 8)
    assert found["gen_ai.response.finish_reasons"] == ("length", "length")
    assert found["gen_ai.response.id"] == "mine" and found["http.response.status_code"] == 200


def test_times_add_up(ask):
    found = ask("/v1/chat/completions", {"messages": HELLO, "max_tokens": 5, "ignore_eos": True}).attributes
    times = {name.rpartition(".")[2]: value for name, value in found.items() if ".latency." in name}
    assert times["time_in_queue"] + times["time_in_model_prefill"] == pytest.approx(times["time_to_first_token"])
    assert times["time_to_first_token"] + times["time_in_model_decode"] == pytest.approx(times["e2e"])
    assert 0 < times["time_in_model_inference"] <= times["e2e"] < 20


def test_it_is_below_the_clients_span(ask):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    span = ask("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}, traceparent=parent)
    assert f"{span.context.trace_id:032x}-{span.parent.span_id:016x}" == parent[3:-3]


def test_what_is_refused_is_a_span_with_its_status(ask):
    found = ask("/v1/completions", {"prompt": 1}).attributes
    assert found["http.response.status_code"] == 400 and "gen_ai.usage.input_tokens" not in found


def test_embeddings_are_traced_and_health_is_not(traced, ask):
    found = ask("/v1/embeddings", {"input": [[5, 6]]}).attributes
    assert found["gen_ai.operation.name"] == "embeddings" and found["gen_ai.usage.input_tokens"] == 2
    running, exporter = traced
    exporter.clear()
    running.get("/health")
    assert exporter.get_finished_spans() == ()


def test_spans_reach_a_collector():
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'quire-server[otel]' brings it")
    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever).start()
        traces = open_traces(f"http://127.0.0.1:{collector.server_port}/v1/traces")
        with serving(local_engine(), traces=traces) as running:
            running.post("/v1/completions", {"prompt": [5], "max_tokens": 1})
        collector.shutdown()
    ((path, body),) = got
    spans = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    assert path == "/v1/traces" and b"gen_ai.usage.output_tokens" in spans


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"quire-server\[otel\]"):
        open_traces("http://127.0.0.1:4318/v1/traces")
