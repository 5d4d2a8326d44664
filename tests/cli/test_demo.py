"""`quire demo` on a made-up model."""

from io import StringIO

import pytest
from rich.console import Console

from quire.cli import demo
from quire.config import make_config
from quire.opening import open_with_context


@pytest.fixture
def opened(model_of_long_context):
    opened = open_with_context(
        make_config({"model": model_of_long_context, "backend": "reference", "load_format": "dummy", "max_num_seqs": 8})
    )
    yield opened
    opened.engine.shutdown()


def test_all_answers_and_a_summary_are_printed(quire, model_of_long_context):
    arguments = ("--backend", "reference", "--load-format", "dummy", "--max-num-seqs", "8", "-m", "12")
    result = quire("demo", "--model", model_of_long_context, *arguments)
    assert result.exit_code == 0
    assert all(f"── {number} of 6" in result.stdout for number in range(1, 7))
    for told in ("first token", "KV blocks", "KV waste", "prefix cache", "reference: ", "paged_attention"):
        assert told in result.stdout


def test_prompts_that_share_a_prefix_share_blocks(opened):
    summary, peak = demo.play(opened.engine, Console(file=StringIO()), {"max_tokens": 24, "temperature": 0})
    assert summary.num_requests == 6
    assert peak.shared >= len(demo.PREAMBLE) // 16 - 1  # a byte is a token here
    assert opened.engine.stats().num_prefix_hits >= 2 * (len(demo.PREAMBLE) // 16 - 1) * 16
    opened.engine.check_integrity()


def test_a_terminal_gets_a_live_view(opened):
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=60)
    demo.play(opened.engine, console, {"max_tokens": 4, "temperature": 0})
    assert screen.getvalue().count("✓") >= 6


def test_long_prompts_are_shown_by_their_end():
    assert demo.tail("a\n\n\nb\n") == "…\nb\n"
    assert demo.tail("b\n\nc") == "b\n\nc"
