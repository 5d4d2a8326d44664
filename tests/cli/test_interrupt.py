"""Ctrl-C ends a command cleanly with 130, and only stops the answer in a chat."""

import os
import signal
import subprocess
import sys
import time


def start(*arguments: str) -> subprocess.Popen:
    # A process group of its own, and Python's own handler even where the tests' parent ignores SIGINT.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from quire.cli import main; main()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes, env={**os.environ, "PYTHONUTF8": "1"})


def interrupt_after_first_output(process: subprocess.Popen) -> None:
    assert process.stdout.read(1)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)


def test_ctrl_c_ends_a_run_with_130_and_no_traceback(model, on_reference):
    process = start("run", model, "hello", "-m", "200", "--ignore-eos", *on_reference)
    interrupt_after_first_output(process)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(model, on_reference):
    process = start("chat", model, "-m", "200", "--ignore-eos", *on_reference)
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert process.stdout.read(3)  # the input prompt, and the answer's first character
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(b"/exit\n", timeout=60)
    assert process.returncode == 0
    assert b"stopped" in stderr
