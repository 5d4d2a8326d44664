"""`quire bench serve`: that it counts and times what happened, not how fast this machine is."""

from __future__ import annotations

import asyncio
import json
import statistics

import pytest
from typer.testing import CliRunner

from quire.cli.app import make_app
from quire.errors import ConfigError, QuireError
from quire_server.bench.compare import Overhead
from quire_server.bench.http_target import HttpTarget
from quire_server.bench.load import Record, Reply, Run, run_load
from quire_server.bench.summary import parse_limits, summarize
from quire_server.bench.workload import OUTPUTS, PROMPTS, Item, draw_items, read_items

from .harness import local_engine, serving, slow


def bench(*arguments):
    return CliRunner().invoke(make_app(), ["bench", "serve", *arguments])


def run_on(url, items, concurrency=None, **options):
    async def run():
        target = HttpTarget(url, "demo", **options)
        seen = await run_load(target, items, concurrency)
        target.close()
        return seen

    return asyncio.run(run())


class TestWorkload:
    def test_a_seed_draws_the_same_requests_again(self):
        assert draw_items(20, seed=1) == draw_items(20, seed=1) != draw_items(20, seed=2)

    @pytest.mark.parametrize(("law", "length"), [(PROMPTS, lambda item: len(item.prompt)), (OUTPUTS, lambda i: i[1])])
    def test_lengths_have_their_median_and_their_bounds(self, law, length):
        lengths = [length(item) for item in draw_items(4000, seed=0)]
        assert statistics.median(lengths) == pytest.approx(law.median, rel=0.1)
        assert law.low <= min(lengths) and max(lengths) == law.high

    def test_the_means_are_those_that_the_docstring_names(self):
        items = draw_items(20_000, seed=0)
        assert statistics.mean(len(item.prompt) for item in items) == pytest.approx(175, rel=0.05)
        assert statistics.mean(item.output_len for item in items) == pytest.approx(204, rel=0.05)

    def test_arrivals_come_at_the_rate_with_the_spread_of_poissons(self):
        arrivals = [item.arrival_s for item in draw_items(4000, seed=0, rate=20.0)]
        gaps = [later - earlier for earlier, later in zip(arrivals, arrivals[1:], strict=False)]
        assert statistics.mean(gaps) == pytest.approx(0.05, rel=0.1)
        assert statistics.stdev(gaps) == pytest.approx(0.05, rel=0.1)

    def test_a_file_gives_lengths_and_prompts_and_begins_again(self, tmp_path):
        path = tmp_path / "lengths.jsonl"
        path.write_text('{"prompt_tokens": 7, "output_tokens": 3}\n\n{"prompt": "hello", "output_tokens": 5}\n')
        items = read_items(path, 3, seed=0)
        assert [item.output_len for item in items] == [3, 5, 3]
        assert (len(items[0].prompt), items[1].prompt, len(items[2].prompt)) == (7, "hello", 7)

    @pytest.mark.parametrize("text", ["", "nonsense", '{"output_tokens": 3}', '{"prompt": "a", "output_tokens": 0}'])
    def test_a_file_that_says_nothing_is_refused(self, tmp_path, text):
        path = tmp_path / "lengths.jsonl"
        path.write_text(text)
        with pytest.raises(ConfigError, match="lengths.jsonl"):
            read_items(path, 3, seed=0)


class TestSummary:
    run = Run(
        [
            Record(10.0, Reply([10.1, 10.2, 10.4], 5, 7)),
            Record(10.0, Reply([10.5], 1, 7)),
            Record(10.0, Reply([], 0, 0), "429: full"),
        ],
        seconds=2.0,
    )

    def test_times_are_those_of_the_records(self):
        seen = summarize(self.run, {})
        assert seen.times_ms["ttft"].p50 == pytest.approx(300)
        assert seen.times_ms["itl"].mean == pytest.approx(150)
        assert seen.times_ms["tpot"].mean == pytest.approx((300 / 4 + 0) / 2)
        assert seen.times_ms["e2e"].p99 == pytest.approx(499)

    def test_failed_requests_count_as_such_only(self):
        seen = summarize(self.run, {})
        assert (seen.num_done, seen.num_failed, seen.first_error) == (2, 1, "429: full")
        assert (seen.prompt_tokens, seen.output_tokens, seen.output_tokens_per_s) == (14, 6, 3.0)
        assert seen.good_share is None

    def test_goodput_counts_requests_that_keep_every_limit(self):
        limits = parse_limits(["ttft:200", "e2e:450"])
        assert summarize(self.run, limits).good_share == pytest.approx(1 / 3)
        assert summarize(self.run, limits).good_requests_per_s == 0.5
        assert summarize(self.run, {**limits, "tpot": 74.0}).good_share == 0

    @pytest.mark.parametrize("text", ["ttft", "ttft:0", "ttft:fast", "latency:3"])
    def test_a_limit_that_is_none_is_refused(self, text):
        with pytest.raises(ConfigError, match="--goodput"):
            parse_limits([text])


def test_the_cost_of_the_server_is_the_median_of_the_rounds():
    overhead = Overhead([90.0, 20.0, 10.0], [100.0, 40.0, 10.0], 12.0, 9.5)
    assert overhead.throughput_lost == pytest.approx(0.1) and overhead.added_ttft_ms == 2.5


class TestTarget:
    def test_every_token_is_counted_and_timed(self, null):
        seen = run_on(null.url, [Item([5] * 7, 12), Item("hello", 3)], 1)
        assert [record.reply.num_tokens for record in seen.records] == [12, 3]
        assert seen.records[0].reply.num_prompt_tokens == 7
        for record in seen.records:
            times = record.reply.times
            assert record.began < times[0] and times == sorted(times) and len(times) <= record.reply.num_tokens

    def test_times_are_those_of_the_engines_steps(self):
        with serving(local_engine(**slow(30), overlap=False)) as running:
            record = run_on(running.url, [Item([5], 6)], 1).records[0]
        assert record.first_token_s >= 0.03 and min(record.gaps_s) > 0.015 and record.end_to_end_s >= 0.18

    def test_no_more_run_at_once_than_asked(self):
        with serving(local_engine(**slow(20))) as running:
            seen = run_on(running.url, [Item([5], 4) for _ in range(6)], 2)
        spans = [(record.began, record.reply.times[-1]) for record in seen.done]
        assert len(spans) == 6
        assert max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans) == 2

    def test_arrivals_do_not_wait_for_answers(self):
        with serving(local_engine(**slow(50))) as running:
            seen = run_on(running.url, [Item([5], 4, arrival_s=0.01 * number) for number in range(5)])
        began = sorted(record.began for record in seen.done)
        assert began[-1] - began[0] == pytest.approx(0.04) and seen.seconds < 5 * 0.2

    def test_a_refused_request_is_told_and_the_others_go_on(self, null):
        seen = run_on(null.url, [Item([5] * 5000, 4), Item([5], 4)], 1)
        assert "400" in seen.records[0].error and "5000" in seen.records[0].error
        assert seen.records[1].error is None

    def test_a_server_that_is_not_there_is_told(self):
        assert "cannot connect" in run_on("http://127.0.0.1:1", [Item([5], 4)], 1).records[0].error

    def test_an_answer_that_is_broken_off_fails(self):
        async def run():
            async def break_off(reader, writer):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                await writer.drain()
                writer.close()

            async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(QuireError, match="before the answer was over"):
                    await HttpTarget(f"http://127.0.0.1:{port}", "demo").send(Item([5], 4))

        asyncio.run(run())

    def test_the_key_is_sent(self):
        with serving(local_engine(), api_keys=("secret",)) as running:
            assert "401" in run_on(running.url, [Item([5], 4)], 1).records[0].error
            assert run_on(running.url, [Item([5], 4)], 1, api_key="secret").done


class TestCommand:
    def test_a_running_server_is_measured(self, null):
        result = bench(
            "--url", null.url, "--requests", "6", "--request-rate", "200", "--goodput", "e2e:60000", "--json"
        )
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        expected = draw_items(6, seed=0, rate=200.0)
        assert told["output_tokens"] == sum(item.output_len for item in expected)
        assert (told["num_done"], told["num_failed"], told["good_share"], told["overhead"]) == (6, 0, 1.0, None)

    def test_a_server_is_started_and_compared_with_its_engine(self):
        result = bench("demo", "--backend", "null", "--requests", "4", "--against-engine")
        assert result.exit_code == 0, result.output
        assert "the server over its engine" in result.stdout and "first token of one alone" in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ([], "--url"),
            (["--url", "http://127.0.0.1:1", "--against-engine"], "--against-engine"),
            (["--url", "nowhere"], "http://"),
            (["demo", "--concurrency", "2", "--request-rate", "3"], "exclude"),
            (["demo", "--backend", "nonsense"], "nonsense"),
        ],
    )
    def test_what_cannot_be_measured_is_told(self, arguments, word):
        result = bench(*arguments)
        assert result.exit_code in (1, 2) and word in result.stderr
