"""One OpenTelemetry span for each request that asks the model for something, with the GenAI conventions' attributes.

The libraries are optional (`quire-server[otel]`) and imported only where traces are wanted. What happened inside the
engine stands under the names that vLLM gives it (`gen_ai.latency.…`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.errors import ConfigError
from quire.sampling import SamplingParams
from quire_server.usage import Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/score": "score",
    "/score": "score",
}
SAMPLING = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "n": "choice.count",
}
"""Attributes below `gen_ai.request`, by field of SamplingParams."""


def open_traces(endpoint: str) -> TracerProvider:
    """Return what sends spans to an OTLP collector over HTTP. Raise ConfigError where a library is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = f"otlp_traces_endpoint needs OpenTelemetry ({error}); pip install 'quire-server[otel]'"
        raise ConfigError(message) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "quire"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class Traces:
    """Middleware: a span around each request to a route of `OPERATIONS`, below the client's own where it names one."""

    def __init__(self, app: ASGIApp, provider: TracerProvider, model: str) -> None:
        import quire

        self._app = app
        self._model = model
        self._tracer = provider.get_tracer("quire_server", quire.__version__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = OPERATIONS.get(scope["path"].removeprefix(scope.get("root_path", ""))) if "path" in scope else None
        if scope["type"] != "http" or scope["method"] != "POST" or operation is None:
            return await self._app(scope, receive, send)
        with self._start(scope, operation) as span:

            async def send_noting_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    note_status(span, message["status"])
                await send(message)

            try:
                await self._app(scope, receive, send_noting_status)
            finally:
                usage = scope["state"].get("usage")
                span.set_attributes(dict(describe(usage)) if usage is not None else {})
        return None

    def _start(self, scope: Scope, operation: str) -> Any:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "quire",
            "gen_ai.request.model": self._model,
            "gen_ai.response.id": scope["state"]["request_id"],
        }
        parent = TraceContextTextMapPropagator().extract(Headers(scope=scope))
        name = f"{operation} {self._model}"
        return self._tracer.start_as_current_span(name, parent, SpanKind.SERVER, attributes, record_exception=False)


def note_status(span: Span, status: int) -> None:
    """Write the answer's status; a server's failure is the span's."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def describe(usage: Usage) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of what was asked, what came of it, and when."""
    yield "gen_ai.usage.input_tokens", usage.num_prompt_tokens
    yield "gen_ai.usage.output_tokens", usage.num_output_tokens
    yield "gen_ai.usage.cache_read.input_tokens", usage.num_cached_tokens
    yield "gen_ai.response.finish_reasons", usage.finish_reasons
    if usage.params is not None:
        yield from _describe_params(usage.params)
    yield from _describe_times(usage)


def _describe_params(params: SamplingParams) -> Iterator[tuple[str, Any]]:
    for field, name in SAMPLING.items():
        if (value := getattr(params, field)) is not None:
            yield f"gen_ai.request.{name}", value
    if params.stop:
        yield "gen_ai.request.stop_sequences", list(params.stop)


def _describe_times(usage: Usage) -> Iterator[tuple[str, float]]:
    """Yield seconds of the first prompt's way through the engine, as far as it came."""
    times = usage.times
    if times is None:
        return
    spans = {
        "time_in_queue": (times.arrival_time, times.scheduled_time),
        "time_in_model_prefill": (times.scheduled_time, times.first_token_time),
        "time_to_first_token": (times.arrival_time, times.first_token_time),
        "time_in_model_decode": (times.first_token_time, times.finished_time),
        "time_in_model_inference": (times.scheduled_time, times.finished_time),
        "e2e": (times.arrival_time, times.finished_time),
    }
    for name, (start, end) in spans.items():
        if start is not None and end is not None:
            yield f"gen_ai.latency.{name}", end - start
