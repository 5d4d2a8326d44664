"""LLM: lists in, lists out, in order, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from quire.engine import Engine
from quire.errors import ConfigError, EngineDeadError, ModelError, RequestError
from quire.llm import LLM
from quire.plan import NewRow
from quire.sampling import SamplingParams
from quire.text.tokenizer import Tokenizer

Script = Callable[[NewRow, int], int]
Open = Callable[..., Engine]


def echo(seat: NewRow, index: int) -> int:
    """Say the prompt again, from its first token."""
    return int(seat.token_ids[index % seat.prompt_len])


@pytest.fixture
def llm(open_scripted: Open) -> LLM:
    return LLM.from_engine(open_scripted(echo))


class TestGenerate:
    @pytest.mark.parametrize("prompt", ["fox", [70, 71], (70, 71), np.array([70, 71]), {"prompt": "fox"}])
    def test_one_prompt_of_any_kind_gives_one_output(self, llm: LLM, prompt: Any) -> None:
        [output] = llm.generate(prompt, SamplingParams(max_tokens=2))
        assert output.outputs[0].token_ids == output.prompt_token_ids[:2]

    @pytest.mark.parametrize("prompts", [["fox", "dog"], [[70, 71], [72]], ["fox", [70], {"prompt": "dog"}]])
    def test_many_prompts_give_outputs_in_their_order(self, llm: LLM, prompts: Any) -> None:
        outputs = llm.generate(prompts, SamplingParams(max_tokens=1))
        assert len(outputs) == len(prompts)
        assert all(output.outputs[0].token_ids == output.prompt_token_ids[:1] for output in outputs)

    def test_no_prompts_give_no_outputs(self, llm: LLM) -> None:
        assert llm.generate([]) == []

    def test_each_prompt_may_have_its_own_params(self, llm: LLM) -> None:
        outputs = llm.generate(["fox", "dog"], [SamplingParams(max_tokens=1), SamplingParams(max_tokens=3)])
        assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 3]

    def test_the_default_is_cut_to_what_is_left(self, llm: LLM) -> None:
        [output] = llm.generate([[70] * 95])
        assert (len(output.outputs[0].token_ids), output.outputs[0].finish_reason) == (5, "length")

    def test_params_must_be_as_many_as_prompts(self, llm: LLM) -> None:
        with pytest.raises(RequestError, match="2 prompts and 1 sampling_params"):
            llm.generate(["fox", "dog"], [SamplingParams()])

    def test_the_default_is_the_models_own(self, llm: LLM) -> None:
        assert len(llm.generate("fox")[0].outputs[0].token_ids) == llm.get_default_sampling_params().max_tokens

    def test_one_bad_prompt_is_refused_before_any_runs(self, llm: LLM) -> None:
        with pytest.raises(RequestError, match="empty"):
            llm.generate([[70], []])
        assert not llm.engine.has_work

    @pytest.mark.parametrize("prompt", [7, None, object()])
    def test_what_is_no_prompt_at_all_is_refused_as_one(self, llm: LLM, prompt: Any) -> None:
        with pytest.raises(RequestError, match="does not hold token ids"):
            llm.generate(prompt)

    def test_an_idle_engine_begins_while_prompts_beyond_its_first_steps_wait(self, open_scripted: Open) -> None:
        engine = open_scripted(echo, max_num_batched_tokens=64)  # two steps of 64 take seven prompts of 20
        llm, queued, submit = LLM.from_engine(engine), [], engine.executor.submit
        engine.executor.submit = lambda plan: queued.append(engine.stats().num_waiting) or submit(plan)
        outputs = llm.generate([[70 + index] * 20 for index in range(12)], SamplingParams(max_tokens=2))
        assert queued[0] <= 7
        assert [output.outputs[0].token_ids for output in outputs] == [[70 + index] * 2 for index in range(12)]

    def test_more_prompts_than_the_queue_holds_are_served(self, open_scripted: Open) -> None:
        llm = LLM.from_engine(open_scripted(echo, max_queued_requests=2))
        outputs = llm.generate([[70 + index] for index in range(40)], SamplingParams(max_tokens=2))
        assert [output.outputs[0].token_ids[0] for output in outputs] == list(range(70, 110))

    def test_a_request_that_fails_does_not_stop_the_others(
        self, open_scripted: Open, row_failure: type[Exception], caplog: pytest.LogCaptureFixture
    ) -> None:
        def script(seat: NewRow, index: int) -> int:
            if seat.token_ids[0] == 71:
                raise row_failure("NaN in the logits")
            return 70

        llm = LLM.from_engine(open_scripted(script))
        outputs = llm.generate([[70], [71], [72]], SamplingParams(max_tokens=2))
        assert [output.outputs[0].finish_reason for output in outputs] == ["length", "error", "length"]
        assert "request 1, completion 0: NaN in the logits" in caplog.text

    def test_a_dead_engine_says_why(self, open_scripted: Open) -> None:
        llm = LLM.from_engine(open_scripted(lambda seat, index: 1 // 0))
        for _ in range(2):
            with pytest.raises(EngineDeadError, match="ZeroDivisionError"):
                llm.generate("fox")

    def test_nothing_is_drawn_where_there_is_no_terminal(self, llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
        llm.generate("fox")
        assert capfd.readouterr() == ("", "")


class TestChat:
    def test_a_conversation_goes_through_the_template(self, llm: LLM, tokenizer: Tokenizer) -> None:
        [output] = llm.chat([{"role": "user", "content": "fox"}], SamplingParams(max_tokens=2))
        assert output.prompt == "<|bos|><|user|>fox<|assistant|>"
        assert output.prompt_token_ids == tokenizer.encode("<|bos|><|user|>fox<|assistant|>")

    def test_many_conversations_give_many_outputs(self, llm: LLM) -> None:
        conversations = [[{"role": "user", "content": text}] for text in ("fox", "dog")]
        outputs = llm.chat(conversations, SamplingParams(max_tokens=2), add_generation_prompt=False)
        assert [output.prompt for output in outputs] == ["<|bos|><|user|>fox", "<|bos|><|user|>dog"]

    def test_without_a_tokenizer_it_is_refused(self, open_scripted: Open) -> None:
        llm = LLM.from_engine(open_scripted(echo, with_tokenizer=False))
        with pytest.raises(RequestError, match="a conversation needs a tokenizer"):
            llm.chat([{"role": "user", "content": "fox"}])


class TestScore:
    def test_the_score_is_the_sum_over_the_continuation(self, llm: LLM) -> None:
        [output] = llm.score([[70, 71]], [[10, 20, 30]])
        assert output.token_ids == [10, 20, 30]
        assert output.logprobs == pytest.approx([-0.1, -0.2, -0.3])
        assert output.score == pytest.approx(-0.6)
        assert not output.greedy

    def test_a_continuation_of_the_likeliest_tokens_is_greedy(self, llm: LLM) -> None:
        assert llm.score([[70]], [[0, 0]])[0].greedy

    def test_texts_are_parted_where_the_prompt_ends(self, llm: LLM, tokenizer: Tokenizer) -> None:
        [output] = llm.score("the quick", " brown fox")
        assert tokenizer.decode(output.prompt_token_ids) == "the quick"
        assert tokenizer.decode(output.token_ids) == " brown fox"

    def test_a_token_across_the_border_belongs_to_the_continuation(self, llm: LLM, tokenizer: Tokenizer) -> None:
        whole = tokenizer.encode("the")
        assert len(whole) == 1
        [output] = llm.score("! t", "he")
        assert tokenizer.decode(output.token_ids).endswith("the")

    def test_one_prompt_serves_many_continuations(self, llm: LLM) -> None:
        assert [output.token_ids for output in llm.score([[70]], [[10], [11], [12]])] == [[10], [11], [12]]

    @pytest.mark.parametrize(("prompt", "continuation"), [("", "fox"), ("fox", ""), ([], [5]), ([5], [])])
    def test_nothing_to_score_is_refused(self, llm: LLM, prompt: Any, continuation: Any) -> None:
        with pytest.raises(RequestError, match="has no token"):
            llm.score([prompt], [continuation])

    def test_lists_of_other_lengths_are_refused(self, llm: LLM) -> None:
        with pytest.raises(RequestError, match="2 prompts and 3 continuations"):
            llm.score(["a", "b"], ["c", "d", "e"])


class TestEmbed:
    @pytest.mark.parametrize("pooling", ["last", "mean"])
    def test_each_prompt_gets_a_vector(self, llm: LLM, pooling: Any) -> None:
        outputs = llm.embed([[70, 71, 72], list(range(90))], pooling=pooling)
        assert [output.embedding for output in outputs] == [[1.0, 3.0], [1.0, 90.0]]

    def test_an_executor_without_hidden_states_is_named_and_goes_on(self, open_scripted: Open) -> None:
        engine: Any = open_scripted(echo)
        engine.executor.embeds = False
        llm = LLM.from_engine(engine)
        with pytest.raises(RequestError, match="gives no hidden states.*generate, chat and score work"):
            llm.embed([[70, 71], list(range(90))])
        assert llm.generate([[70]], SamplingParams(max_tokens=2))[0].outputs[0].token_ids == [70, 70]

    def test_another_pooling_is_refused(self, llm: LLM) -> None:
        with pytest.raises(RequestError, match="pooling is 'max'; it must be 'last' or 'mean'"):
            llm.embed("fox", pooling="max")  # type: ignore[arg-type]


class TestLife:
    def test_leaving_the_context_stops_the_executor(self, open_scripted: Open) -> None:
        engine: Any = open_scripted(echo)
        with LLM.from_engine(engine) as llm:
            llm.generate("fox")
        assert engine.executor.stopped
        with pytest.raises(EngineDeadError, match="was shut down"):
            llm.generate("fox")

    def test_a_dropped_llm_stops_its_executor(self, open_scripted: Open) -> None:
        engine: Any = open_scripted(echo)
        llm = LLM.from_engine(engine)
        del llm
        assert engine.executor.stopped

    @pytest.fixture
    def usual_ctrl_c(self) -> Iterator[None]:
        """A shell's background jobs are born with SIGINT ignored."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.usefixtures("usual_ctrl_c")
    def test_ctrl_c_frees_everything_and_the_llm_lives_on(self, open_scripted: Open) -> None:
        llm = LLM.from_engine(open_scripted(echo, delay_s=0.01))
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[70]] * 20, SamplingParams(max_tokens=90))
        timer.join()
        assert not llm.engine.has_work
        llm.engine.check_integrity()
        assert llm.engine.stats().kv_usage == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert llm.generate([[70]], SamplingParams(max_tokens=3))[0].outputs[0].token_ids == [70] * 3

    def test_an_interrupt_inside_a_step_ends_the_engine(self, open_scripted: Open) -> None:
        def script(seat: NewRow, index: int) -> int:
            raise KeyboardInterrupt

        llm = LLM.from_engine(open_scripted(script))
        with pytest.raises(KeyboardInterrupt):
            llm.generate("fox")
        with pytest.raises(EngineDeadError, match="the engine stopped: KeyboardInterrupt"):
            llm.generate("fox")

    def test_an_unknown_setting_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'max_num_seqs'"):
            LLM("demo", max_num_seq=3)

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("max_num_seqs", "4", "max_num_seqs is '4'; it must be int"),
            ("memory_bytes", "4GiB", "memory_bytes is '4GiB'; it must be int | None"),
            ("enable_prefix_caching", 1, "enable_prefix_caching is 1; it must be bool"),
            ("dtype", None, "dtype is None; it must be str"),
            ("backend_options", {"threads": 2}, "backend_options is {'threads': 2}; it must be Mapping[str, str]"),
        ],
    )
    def test_a_value_of_another_type_is_refused(self, name: str, value: Any, told: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(told)):
            LLM("demo", **{name: value})

    def test_a_model_that_is_not_there_is_named(self) -> None:
        with pytest.raises(ModelError, match="no model 'nowhere'"):
            LLM("nowhere", backend="reference")


class TestImport:
    def test_importing_quire_loads_nothing_heavy_and_is_fast(self) -> None:
        code = (
            "import sys, time; start = time.perf_counter(); import quire; took = time.perf_counter() - start;"
            "heavy = {'torch', 'transformers', 'numpy', 'tokenizers', 'rich', 'msgspec', 'asyncio'} & set(sys.modules);"
            "assert not heavy, heavy; print(took)"
        )
        runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) for _ in range(3)]
        assert min(float(run.stdout) for run in runs) < 0.05

    def test_every_public_name_can_be_had(self) -> None:
        import quire

        assert set(quire.__all__) <= set(dir(quire))
        assert all(getattr(quire, name) is not None for name in quire.__all__)

    def test_params_and_errors_need_no_torch(self) -> None:
        code = (
            "import sys; from quire import LLM, AsyncLLM, SamplingParams, RequestError;"
            "assert not {'torch', 'transformers'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        import quire

        with pytest.raises(AttributeError, match="no attribute 'LLMM'"):
            quire.LLMM  # noqa: B018
