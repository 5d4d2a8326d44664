"""Chat with a server that speaks as OpenAI's does: its answers, read from a stream of events."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from quire.cli.session import Summary
from quire.errors import ConfigError, QuireError, RequestError

SILENCE_S = 300.0  # a server that says nothing for so long is given up


class ServerSpeaker:
    """Answers with a model of a server. `sampling` are fields of its requests."""

    def __init__(self, url: str, headers: Mapping[str, str], model: str, sampling: Mapping[str, Any]) -> None:
        self._url = url
        self._headers = headers
        self._asked = {**sampling, "model": model, "stream": True, "stream_options": {"include_usage": True}}
        self._summary = Summary(0, 0, 0, 0, 0.0, 0.0)

    @classmethod
    def connect(cls, url: str, api_key: str | None, model: str | None, sampling: Mapping[str, Any]) -> Self:
        """Find the server, and without a `model` the first that it has. Raise ConfigError, RequestError, QuireError."""
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--url is {url!r}; it must begin with http:// or https://")
        url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if model is None:
            with _opened(urllib.request.Request(f"{url}/v1/models", headers=headers)) as response:
                model = json.load(response)["data"][0]["id"]
        return cls(url, headers, model, sampling)

    def speak(self, messages: list[dict[str, str]]) -> Generator[str]:
        """Yield an answer's texts. Raise RequestError where it is refused, QuireError where the server goes."""
        body = json.dumps({**self._asked, "messages": messages}).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/v1/chat/completions", body, headers)
        began, first, usage = time.perf_counter(), None, None
        with _opened(request) as response:
            for chunk in _events(response):
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    first = first or time.perf_counter()
                    yield choice["delta"].get("content") or ""
        self._summary = _summarize(usage or {}, time.perf_counter() - began, (first or began) - began)

    def summary(self) -> Summary:
        return self._summary


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the data of server-sent events. Raise RequestError on one that tells an error."""
    for line in response:
        if not line.startswith(b"data:") or line.strip() == b"data: [DONE]":
            continue
        event: dict[str, Any] = json.loads(line[5:])
        if "error" in event:
            raise RequestError(event["error"]["message"])
        yield event


def _summarize(usage: Mapping[str, Any], seconds: float, first_token_s: float) -> Summary:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Summary(1, usage.get("prompt_tokens", 0), cached, usage.get("completion_tokens", 0), seconds, first_token_s)


@contextmanager
def _opened(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
    """Open a request for the length of a block. Raise RequestError on a refusal, QuireError without a server."""
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_S) as response:
            yield response
    except urllib.error.HTTPError as error:
        with error:
            raise RequestError(_refusal(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise QuireError(f"{request.full_url} does not answer; is the server running?") from error


def _refusal(error: urllib.error.HTTPError) -> str:
    try:
        return f"{error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
