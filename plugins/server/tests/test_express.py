"""The short way of plain tokens says what the long way says, and is left whenever it cannot be taken."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter, defaultdict

import pytest

from quire.sampling import SamplingParams
from quire_server.engine_client import EngineInfo
from quire_server.express import EXTENSION, EventPatterns, Express
from quire_server.metrics import Metrics
from quire_server.serving import Listening
from quire_server.usage import Usage
from quire_server.wire import Answer, Channel, Delta, SharedChannel

from .harness import remote_engine, serving, slow

SAMPLED = {"max_tokens": 40, "seed": 3, "temperature": 1, "ignore_eos": True, "stream": True}
COMPLETION = {"prompt": [5, 6, 7], **SAMPLED}
CHAT = {"messages": [{"role": "user", "content": "a"}], **SAMPLED}
MESSAGES = {"model": "demo", "max_tokens": 40, "messages": CHAT["messages"], "stream": True, "temperature": 0}
DELTA = Delta("a", 0, "ab", [5, 6])
INFO = EngineInfo(
    model="demo",
    backend="null",
    device="none",
    dtype="float32",
    max_model_len=9,
    max_num_seqs=1,
    vocab_size=9,
    max_logprobs=0,
    block_size=1,
    num_blocks=9,
    kv_dtype="float32",
    prefix_caching=False,
    kernels=[],
    sampling={},
)


@pytest.fixture(scope="module")
def remote():
    with serving(remote_engine(**slow(2))) as running:
        yield running
        running.check_rest()


@pytest.fixture
def taken(monkeypatch):
    """Count by answer what `Express.take` was asked for."""
    counts, take = Counter(), Express.take

    def counting(self, delta):
        answer = take(self, delta)
        counts[answer] += 1
        return answer

    monkeypatch.setattr(Express, "take", counting)
    return counts


def read(running, path, body):
    """Return a stream's texts by choice, and what else its events say, which may be split otherwise the next time."""
    texts, shapes = defaultdict(str), set()
    for event in running.post(path, body).text.split("\n\n"):
        name, _, data = event.partition("data: ")
        if data and data != "[DONE]":
            found = json.loads(data)
            for holder in (found, found.get("message", {})):
                holder.pop("id", None), holder.pop("created", None)
            for holder in (*found.get("choices", []), found):
                inner = holder.get("delta", holder)
                for field in {"text", "content"} & inner.keys():
                    texts[holder["index"]] += inner.pop(field)
            shapes.add(name + json.dumps(found))
    return texts, shapes


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", COMPLETION),
        ("/v1/completions", {**COMPLETION, "n": 3}),
        ("/v1/completions", {**COMPLETION, "echo": True, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "n": 2, "stream_options": {"include_usage": True}}),
        ("/v1/messages", MESSAGES),
    ],
)
def test_events_are_those_of_the_long_way(remote, taken, monkeypatch, path, body):
    short = read(remote, path, body)
    assert taken[True] > 20 or "n" in body, taken  # what several completions say at once is more than a text
    monkeypatch.setattr(Express, "take", lambda self, delta: False)
    long = read(remote, path, body)
    assert long[1] == short[1] and (long[0] == short[0] or "seed" not in body)


def test_tokens_are_counted_on_either_way(remote, taken):
    names = ("generation_tokens", "prompt_tokens")
    counts = remote.frontend.metrics.counts
    before = [counts[name] for name in names]
    body = {**COMPLETION, "stream_options": {"include_usage": True}}
    last = remote.post("/v1/completions", body).text.split("\n\n")[-3]
    assert json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"] == 40
    assert [counts[name] - old for name, old in zip(names, before, strict=True)] == [40, 3] and taken[True] > 20


@pytest.mark.parametrize("more", [{"stream_options": {"continuous_usage_stats": True}}, {"prompt": [[5, 6, 7], [8]]}])
def test_what_is_more_than_a_text_of_one_prompt_goes_the_long_way(remote, taken, more):
    assert remote.post("/v1/completions", {**COMPLETION, **more}).status_code == 200
    assert taken[True] == 0


def test_a_reader_that_is_slow_gets_every_token(taken, tmp_path):
    """Its connection is full soon: what comes then is joined, and goes the long way."""
    body = {"prompt": [5, 6, 7], "max_tokens": 2000, "seed": 3, "temperature": 1, "ignore_eos": True}
    path = str(tmp_path / "socket")  # a unix socket holds little

    def ask(stream, wait):
        lines = ("POST /v1/completions HTTP/1.1", "Host: a", "Connection: close", f"X-Request-Id: {'long' * 32}")
        data = json.dumps({**body, "stream": stream})
        request = "\r\n".join((*lines, "Content-Type: application/json", f"Content-Length: {len(data)}", "", data))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(request.encode())
            wait()
            return b"".join(iter(lambda: client.recv(2**20), b""))

    with serving(remote_engine(), listening=Listening(uds=path)) as running:

        def wait():
            running.wait_until(lambda stats: stats.num_running == 1)
            running.wait_until(lambda stats: stats.num_running == 0, 60)

        whole = json.loads(ask(False, lambda: None).partition(b"\r\n\r\n")[2])
        lines = ask(True, wait).split(b"\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]
    assert taken[True] and taken[False], taken


class TestExpress:
    def make(self, event=lambda index, text: text.encode()):
        express = Express(event, Usage(3))
        express.count_in(Metrics(INFO, "demo").watch(3, SamplingParams()))
        return express

    def test_takes_nothing_before_the_answer_has_begun(self):
        assert not self.make().take(DELTA)

    def test_takes_nothing_where_the_server_is_not_ours(self):
        express = self.make()
        express.open({"type": "http"})
        assert not express.take(DELTA)

    def test_takes_nothing_while_the_connection_is_full(self):
        express = self.make()
        express.open({"extensions": {EXTENSION: {"write": lambda data: False}}})
        assert not express.take(DELTA)

    def test_takes_nothing_that_is_more_than_a_text(self):
        express = self.make(lambda index, text: None)
        express.open({"extensions": {EXTENSION: {"write": pytest.fail}}})
        assert not express.take(DELTA)

    def test_writes_and_counts(self):
        written, express = [], self.make()
        express.open({"extensions": {EXTENSION: {"write": lambda data: written.append(data) or True}}})
        assert express.take(DELTA) and written == [b"ab"] and express._usage.num_output_tokens == 2


@pytest.mark.parametrize("text", ["", 'a"b\\c\n\t', "žluťoučký 🐎", "\x00text", "\u2028</script>"])
def test_a_pattern_is_filled_with_any_text(text):
    patterns = EventPatterns(lambda index, text: json.dumps({"index": index, "text": text, "rest": None}).encode())
    for index in (0, 7, 0):
        assert json.loads(patterns.fill(index, text)) == {"index": index, "text": text, "rest": None}


def test_a_channel_that_threads_share_loses_and_mixes_nothing():
    """Two threads send far more than a socket holds, while the other end does not read yet."""
    texts = ["x" * 10_000, "y" * 70_000]

    async def run():
        ours, theirs = socket.socketpair()
        sender, reader = SharedChannel(Answer), Channel(Answer)
        await sender.open(ours)

        def send(thread):
            for number in range(100):
                sender.send(Answer(number, problem=texts[thread]))

        threads = [threading.Thread(target=send, args=(thread,)) for thread in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)  # nobody waited for the other end
        found, all_came = [], asyncio.Event()
        reader.on_message = lambda answer: found.append(answer) or (len(found) == 200 and all_came.set())
        await reader.open(theirs)
        await asyncio.wait_for(all_came.wait(), 20)
        sender.close()
        await asyncio.wait_for(reader.gone.wait(), 5)
        reader.close()
        await sender.gone.wait()
        return found

    found = asyncio.run(run())
    for text in texts:
        assert [answer.number for answer in found if answer.problem == text] == list(range(100))
