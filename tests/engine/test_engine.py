"""The engine's loop: what goes in is checked, what comes out is whole, and one failure stays one failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quire.engine import Engine
from quire.errors import EngineDeadError
from quire.outputs import RequestOutput
from quire.plan import NewRow
from quire.sampling import OutputKind, SamplingParams
from quire.text.tokenizer import Tokenizer

Script = Callable[[NewRow, int], int]
Say = Callable[[str], Script]
Open = Callable[..., Engine]

DELTA, FINAL = OutputKind.DELTA, OutputKind.FINAL_ONLY


def count_up(seat: NewRow, index: int) -> int:
    """Output token i of a row with seed s is 10 + (prompt's first + s + i) mod 300: never special."""
    return 10 + (int(seat.token_ids[0]) + seat.seed + index) % 300


def run(engine: Engine) -> list[RequestOutput]:
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    engine.check_integrity()
    return outputs


def complete(engine: Engine, prompt: Any = (5, 6, 7), **params: Any) -> RequestOutput:
    engine.add("r", prompt, SamplingParams(output_kind=FINAL, **params))
    [output] = run(engine)
    return output


class TestStreaming:
    def test_deltas_join_to_the_final_output(self, open_scripted: Open, say: Say, in_flight: int) -> None:
        text = "naïve 😀 fox stops"
        engine = open_scripted(say(text), in_flight=in_flight)
        engine.add("r", "the dog", SamplingParams(max_tokens=50, output_kind=DELTA, stop="never"))
        outputs = run(engine)
        assert "".join(output.outputs[0].text for output in outputs) == text
        joined = [token for output in outputs for token in output.outputs[0].token_ids]
        final = complete(engine, "the dog", max_tokens=50, stop="never")
        assert (final.outputs[0].text, final.outputs[0].token_ids) == (text, joined)

    def test_each_step_gives_one_delta(self, open_scripted: Open, in_flight: int) -> None:
        engine = open_scripted(count_up, in_flight=in_flight)
        engine.add("r", [5], SamplingParams(max_tokens=7, output_kind=DELTA))
        outputs = run(engine)
        assert [len(output.outputs[0].token_ids) for output in outputs] == [1] * 7
        assert [output.finished for output in outputs] == [False] * 6 + [True]

    def test_cumulative_outputs_hold_all_so_far(self, open_scripted: Open, say: Say) -> None:
        engine = open_scripted(say("the quick brown fox"))
        engine.add("r", [5], SamplingParams(max_tokens=50))
        texts = [output.outputs[0].text for output in run(engine)]
        assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
        assert texts[-1] == "the quick brown fox"

    def test_final_only_gives_one_output(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        engine.add("r", [5], SamplingParams(max_tokens=7, output_kind=FINAL))
        assert [len(output.outputs[0].token_ids) for output in run(engine)] == [7]

    def test_outputs_name_their_prompt_and_times(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        output = complete(engine, "the fox", max_tokens=3)
        assert output.prompt == "the fox"
        assert engine.tokenizer is not None
        assert output.prompt_token_ids == engine.tokenizer.encode("the fox")
        times = output.metrics
        assert times.first_token_time is not None
        assert times.finished_time is not None
        assert times.scheduled_time is not None
        assert times.arrival_time <= times.scheduled_time <= times.first_token_time <= times.finished_time

    def test_a_prompt_seen_before_is_cached(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        assert complete(engine, list(range(10, 30)), max_tokens=2).num_cached_tokens == 0
        assert complete(engine, list(range(10, 30)), max_tokens=2).num_cached_tokens == 19

    def test_without_a_tokenizer_there_are_tokens_and_no_text(self, open_scripted: Open) -> None:
        output = complete(open_scripted(count_up, with_tokenizer=False), max_tokens=3)
        assert (output.outputs[0].text, len(output.outputs[0].token_ids)) == ("", 3)

    def test_detokenize_off_gives_no_text(self, open_scripted: Open) -> None:
        assert complete(open_scripted(count_up), max_tokens=3, detokenize=False).outputs[0].text == ""


class TestFinishing:
    def test_max_tokens_ends_with_length(self, open_scripted: Open, in_flight: int) -> None:
        completion = complete(open_scripted(count_up, in_flight=in_flight), max_tokens=5).outputs[0]
        assert (len(completion.token_ids), completion.finish_reason) == (5, "length")

    def test_end_of_sequence_stops_without_text(self, open_scripted: Open, say: Say, in_flight: int) -> None:
        engine = open_scripted(say("fox"), in_flight=in_flight)
        completion = complete(engine, max_tokens=50, skip_special_tokens=False).outputs[0]
        assert (completion.text, completion.finish_reason, completion.stop_reason) == ("fox", "stop", None)
        assert completion.token_ids[-1] == 1

    def test_ignored_end_of_sequence_goes_on(self, open_scripted: Open, say: Say) -> None:
        completion = complete(open_scripted(say("fox")), max_tokens=9, ignore_eos=True).outputs[0]
        assert (len(completion.token_ids), completion.finish_reason) == (9, "length")

    def test_a_stop_token_is_named_and_has_no_text(self, open_scripted: Open, tokenizer: Tokenizer, say: Say) -> None:
        dog = tokenizer.encode("!")[0]
        completion = complete(open_scripted(say("fox!fox")), max_tokens=50, stop_token_ids=[dog]).outputs[0]
        assert (completion.text, completion.finish_reason, completion.stop_reason) == ("fox", "stop", dog)

    def test_a_stop_token_keeps_its_text_when_asked_for(
        self, open_scripted: Open, tokenizer: Tokenizer, say: Say
    ) -> None:
        params = {"stop_token_ids": tokenizer.encode("!"), "include_stop_str_in_output": True}
        assert complete(open_scripted(say("fox!fox")), max_tokens=50, **params).outputs[0].text == "fox!"

    def test_a_stop_string_ends_text_and_request(self, open_scripted: Open, say: Say, in_flight: int) -> None:
        engine = open_scripted(say("the fox </tool> and more, and more, and more"), in_flight=in_flight)
        completion = complete(engine, max_tokens=90, stop=["</tool>", "never"]).outputs[0]
        assert (completion.text, completion.finish_reason, completion.stop_reason) == ("the fox ", "stop", "</tool>")

    def test_a_stop_string_frees_the_request_at_once(self, open_scripted: Open, say: Say, in_flight: int) -> None:
        engine = open_scripted(say("ab!" * 30), in_flight=in_flight)
        engine.add("r", [5], SamplingParams(max_tokens=90, stop="!", output_kind=FINAL))
        while not engine.step():
            pass
        assert not engine.scheduler.has_work
        engine.check_integrity()

    def test_no_token_comes_after_a_stop_string(self, open_scripted: Open, say: Say, tokenizer: Tokenizer) -> None:
        completion = complete(open_scripted(say("ab!cd"), in_flight=2), max_tokens=50, stop="!").outputs[0]
        assert tokenizer.decode(completion.token_ids) == "ab!"

    def test_min_tokens_passes_over_early_stops(self, open_scripted: Open, say: Say) -> None:
        engine = open_scripted(say("a!b!c!"))
        completion = complete(engine, max_tokens=50, stop="!", min_tokens=3, ignore_eos=True).outputs[0]
        assert completion.text == "a!b"

    def test_text_cut_inside_a_character_is_flushed(self, open_scripted: Open, say: Say) -> None:
        assert complete(open_scripted(say("a😀b")), max_tokens=3).outputs[0].text == "a�"


class TestManyCompletions:
    def test_one_output_holds_all_of_them(self, open_scripted: Open, in_flight: int) -> None:
        output = complete(open_scripted(count_up, in_flight=in_flight), n=3, seed=7, max_tokens=4)
        assert [completion.index for completion in output.outputs] == [0, 1, 2]
        assert [completion.token_ids[0] for completion in output.outputs] == [22, 23, 24]

    def test_each_equals_a_request_with_that_seed(self, open_scripted: Open, in_flight: int) -> None:
        together = complete(open_scripted(count_up, in_flight=in_flight), n=3, seed=7, max_tokens=4)
        for index, completion in enumerate(together.outputs):
            alone = complete(open_scripted(count_up, in_flight=in_flight), seed=7 + index, max_tokens=4)
            assert completion.token_ids == alone.outputs[0].token_ids

    def test_it_finishes_when_the_last_one_does(self, open_scripted: Open) -> None:
        def stop_early(seat: NewRow, index: int) -> int:
            return 1 if index == seat.seed else 50

        engine = open_scripted(stop_early)
        engine.add("r", [5], SamplingParams(n=3, seed=2, max_tokens=50, output_kind=DELTA))
        outputs = run(engine)
        assert [output.finished for output in outputs].count(True) == 1
        ends = [item.index for output in outputs for item in output.outputs if item.finished]
        assert ends == [0, 1, 2]

    def test_a_stop_string_ends_only_its_own(self, open_scripted: Open, tokenizer: Tokenizer) -> None:
        texts = [tokenizer.encode("ab!cdefgh"), tokenizer.encode("abcdefghi")]
        engine = open_scripted(lambda seat, index: texts[seat.seed][index])
        output = complete(engine, n=2, seed=0, stop="!", max_tokens=8)
        assert [item.finish_reason for item in output.outputs] == ["stop", "length"]
        assert output.outputs[0].text == "ab"

    def test_requests_without_a_seed_differ(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        first, second = (complete(engine, max_tokens=1).outputs[0].token_ids for _ in range(2))
        assert first != second

    def test_the_engine_seed_makes_runs_repeatable(self, open_scripted: Open) -> None:
        runs = [complete(open_scripted(count_up, seed=3), max_tokens=4).outputs[0].token_ids for _ in range(2)]
        assert runs[0] == runs[1]


class TestLogprobs:
    def test_the_chosen_token_comes_first_then_the_best(self, open_scripted: Open) -> None:
        completion = complete(open_scripted(lambda seat, index: 50), max_tokens=2, logprobs=2).outputs[0]
        assert completion.logprobs is not None
        assert [list(position) for position in completion.logprobs] == [[50, 0, 1]] * 2
        assert [item.rank for item in completion.logprobs[0].values()] == [51, 1, 2]
        assert completion.cumulative_logprob == pytest.approx(-1.0)

    def test_a_chosen_token_among_the_best_is_named_once(self, open_scripted: Open) -> None:
        completion = complete(open_scripted(lambda seat, index: 5), max_tokens=1, logprobs=7).outputs[0]
        assert completion.logprobs is not None
        assert [item.rank for item in completion.logprobs[0].values()] == [6, 1, 2, 3, 4, 5, 7]

    def test_tokens_are_spelled_out(self, open_scripted: Open, tokenizer: Tokenizer) -> None:
        token = tokenizer.encode("!")[0]
        completion = complete(open_scripted(lambda seat, index: token), max_tokens=1, logprobs=0).outputs[0]
        assert completion.logprobs is not None
        assert completion.logprobs[0][token].decoded_token == "!"

    def test_logprobs_follow_deltas(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        engine.add("r", [5], SamplingParams(max_tokens=3, logprobs=0, output_kind=DELTA))
        for output in run(engine):
            [completion] = output.outputs
            assert completion.logprobs is not None
            assert [list(position) for position in completion.logprobs] == [[token] for token in completion.token_ids]

    @pytest.mark.parametrize("prompt_len", [1, 4, 90])
    def test_prompt_logprobs_cover_the_prompt_but_its_first(self, open_scripted: Open, prompt_len: int) -> None:
        prompt = list(range(20, 20 + prompt_len))
        output = complete(open_scripted(count_up), prompt, max_tokens=2, prompt_logprobs=0)
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        assert [list(position or {}) for position in output.prompt_logprobs[1:]] == [[token] for token in prompt[1:]]

    def test_prompt_logprobs_are_those_of_a_cold_run_after_a_cache_hit(self, open_scripted: Open) -> None:
        engine, prompt = open_scripted(count_up), list(range(20, 60))
        outputs = [complete(engine, prompt, max_tokens=2, prompt_logprobs=0) for _ in range(2)]
        assert outputs[0].prompt_logprobs == outputs[1].prompt_logprobs

    def test_prompt_logprobs_come_once_in_deltas(self, open_scripted: Open) -> None:
        engine = open_scripted(count_up)
        engine.add("r", [5, 6], SamplingParams(max_tokens=3, prompt_logprobs=0, output_kind=DELTA))
        assert [output.prompt_logprobs is not None for output in run(engine)] == [True, False, False]


class TestOverlap:
    def test_overlapped_steps_give_the_tokens_of_plain_ones(self, open_scripted: Open, tokenizer: Tokenizer) -> None:
        def answers(in_flight: int) -> dict[str, list[tuple[list[int], str, str | None]]]:
            engine = open_scripted(count_up, in_flight=in_flight, num_blocks=24)
            for index in range(20):
                params = SamplingParams(
                    n=1 + index % 2, seed=index, max_tokens=5 + 3 * index, stop="a", output_kind=FINAL
                )
                engine.add(f"r{index}", [5 + index] * (1 + index), params)
            outputs = run(engine)
            assert engine.stats().num_preemptions > 0
            return {
                output.request_id: [(item.token_ids, item.text, item.finish_reason) for item in output.outputs]
                for output in outputs
            }

        plain = answers(1)
        assert len(plain) == 20
        assert answers(2) == plain
        assert answers(3) == plain

    def test_the_next_step_is_under_way_before_one_is_collected(self, open_scripted: Open, in_flight: int) -> None:
        engine: Any = open_scripted(count_up, in_flight=in_flight)
        complete(engine, max_tokens=9)
        assert engine.executor.most_in_flight == in_flight
        assert engine.executor.num_submitted == engine.executor.num_collected


class TestFailures:
    @pytest.fixture
    def fail_sixes(self, row_failure: type[Exception]) -> Script:
        """Rows whose prompt begins with 6 fail at their third token."""

        def script(seat: NewRow, index: int) -> int:
            if seat.token_ids[0] == 6 and index >= 2:
                raise row_failure("NaN in the logits")
            return 50

        return script

    def test_a_failing_row_fails_only_its_request(
        self, open_scripted: Open, fail_sixes: Script, in_flight: int
    ) -> None:
        engine = open_scripted(fail_sixes, in_flight=in_flight)
        for first in (5, 6, 7):
            engine.add(str(first), [first], SamplingParams(max_tokens=5, output_kind=FINAL))
        found = {output.request_id: output.outputs[0] for output in run(engine)}
        assert [found[name].finish_reason for name in "567"] == ["length", "error", "length"]
        assert found["6"].stop_reason == "NaN in the logits"
        assert found["6"].token_ids == [50, 50]
        assert engine.death is None

    def test_an_executor_that_raises_ends_the_engine_with_the_cause(self, open_scripted: Open, in_flight: int) -> None:
        def script(seat: NewRow, index: int) -> int:
            if index == 3:
                raise MemoryError("the device is gone")
            return 50

        engine = open_scripted(script, in_flight=in_flight)
        engine.add("r", [5])
        with pytest.raises(EngineDeadError, match="the device is gone") as caught:
            run(engine)
        assert isinstance(caught.value.__cause__, MemoryError)
        with pytest.raises(EngineDeadError, match="the device is gone"):
            engine.step()
        with pytest.raises(EngineDeadError, match="the device is gone"):
            engine.add("s", [5])

    def test_a_dead_engine_still_stops_its_executor(self, open_scripted: Open) -> None:
        engine: Any = open_scripted(lambda seat, index: 1 // 0)
        engine.add("r", [5])
        with pytest.raises(EngineDeadError, match="ZeroDivisionError"):
            engine.step()
        engine.shutdown()
        assert engine.executor.stopped


class TestAborting:
    @pytest.mark.parametrize("num_steps", [0, 1, 3])
    def test_an_aborted_request_leaves_nothing_behind(
        self, open_scripted: Open, in_flight: int, num_steps: int
    ) -> None:
        engine = open_scripted(count_up, in_flight=in_flight)
        engine.add("r", [5] * 9, SamplingParams(n=3, max_tokens=50))
        engine.add("s", [6] * 9, SamplingParams(max_tokens=5, output_kind=FINAL))
        for _ in range(num_steps):
            engine.step()
        assert engine.abort("r")
        assert {output.request_id for output in run(engine)} == {"s"}
        assert engine.stats().kv_usage == 0

    def test_an_unknown_id_is_no_error(self, open_scripted: Open) -> None:
        assert not open_scripted(count_up).abort("nobody")

    def test_an_id_can_be_used_again_at_once(self, open_scripted: Open, in_flight: int) -> None:
        engine = open_scripted(count_up, in_flight=in_flight)
        engine.add("r", [5], SamplingParams(max_tokens=50))
        engine.step()
        engine.abort("r")
        output = complete(engine, [9], seed=0, max_tokens=3)
        assert output.outputs[0].token_ids == [19, 20, 21]

    def test_shutdown_ends_everything(self, open_scripted: Open) -> None:
        engine: Any = open_scripted(count_up)
        engine.add("r", [5])
        engine.step()
        engine.shutdown()
        engine.shutdown()
        assert engine.executor.stopped
        with pytest.raises(EngineDeadError, match="was shut down"):
            engine.add("s", [5])
