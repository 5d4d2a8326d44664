"""`quire serve` as a process of its own: its first line, its last, and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

COMPLETIONS = "/v1/completions"
COMMAND = [
    sys.executable,
    "-c",
    "from quire.cli import main; main()",
    "serve",
    "demo",
    "--port",
    "0",
    "--backend",
    "null",
]
STEP_MS = 10
SLOW = ["--backend-option", f"step_us={STEP_MS * 1000}"]


class Served:
    """The process, what it has written to stderr, and the address that it named."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self.url = ""
        self._is_ready = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def wait_ready(self):
        assert self._is_ready.wait(90) and self.url, "".join(self.lines)

    def end(self, seconds=30):
        """Wait for its end; return its exit code."""
        code = self.process.wait(seconds)
        self._reading.join()
        return code

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"ready (http://\S+)", line):
                self.url = found[1]
                self._is_ready.set()
        self._is_ready.set()


@contextmanager
def served(*options, **environment):
    process = subprocess.Popen(
        [*COMMAND, *options], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment, "NO_COLOR": "1"}
    )
    server = Served(process)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        server.end()
        process.stderr.close()


def test_sigterm_lets_a_stream_finish_refuses_new_ones_and_exits_with_0():
    with served(*SLOW) as server:
        server.wait_ready()
        body = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}
        with (
            httpx.Client(base_url=server.url, timeout=60) as http,
            http.stream("POST", COMPLETIONS, json=body) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/health")
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert server.end() == 0
    ready = next(line for line in server.lines if "ready" in line)
    for word in ("model demo", "backend null", "KV", "blocks", "no API key"):
        assert word in ready
    log = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert log[-1]["path"] == COMPLETIONS and log[-1]["status"] == 200 and log[-1]["output_tokens"] == 100


def test_ctrl_c_ends_it_with_130_and_no_traceback():
    with served("--in-process", QUIRE_API_KEYS="one, two") as server:
        server.wait_ready()
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 130
    assert "Traceback" not in "".join(server.lines)


def test_a_second_signal_does_not_wait():
    with served(*SLOW) as server:
        server.wait_ready()
        body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with (
            httpx.Client(base_url=server.url, timeout=60) as http,
            http.stream("POST", COMPLETIONS, json=body) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            for _ in range(20):  # it goes on after the first
                next(lines)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        assert server.end(10) == 0


def cpu_seconds(process):
    """Return what the process and its children have used."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in (process.pid, *children)]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_at_rest_it_takes_less_than_2_percent_of_a_core():
    with served() as server:
        server.wait_ready()
        httpx.post(f"{server.url}{COMPLETIONS}", json={"prompt": "a", "max_tokens": 20})
        time.sleep(1)
        before, seconds = cpu_seconds(server.process), 4
        time.sleep(seconds)
        assert cpu_seconds(server.process) - before < 0.02 * seconds


def test_it_listens_on_a_unix_socket(tmp_path):
    path = str(tmp_path / "quire.sock")
    with served("--uds", path) as server:
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://quire") as http:
            while "ready" not in "".join(server.lines):
                assert server.process.poll() is None, server.lines
                time.sleep(0.05)
            assert http.get("/health").json() == {"status": "ok"}
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--backend", "nonsense"], "nonsense"),
        (["--chat-template", "/nowhere.jinja"], "/nowhere.jinja"),
        (["--host", "256.0.0.1"], "256.0.0.1"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(options, word):
    with served(*options) as server:
        assert server.end(60) in (1, 2)
    told = "".join(server.lines)
    assert word in told and "Traceback" not in told
