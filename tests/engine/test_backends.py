"""The whole of the core, from a model folder to text: on the null backend for numbers, on the reference for meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import torch

from quire.async_llm import AsyncLLM
from quire.errors import ModelError, RequestError
from quire.llm import LLM
from quire.outputs import RequestOutput
from quire.sampling import OutputKind, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["the", "the quick brown fox", "naïve 😀", [7] * 60]


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Iterator[LLM]:
    torch.set_num_threads(1)  # the model is tiny: threads would only wait for each other
    with LLM(str(model_folder), backend="reference", load_format="dummy", num_blocks=60, max_num_seqs=8) as llm:
        yield llm
        llm.engine.check_integrity()
        assert llm.engine.stats().kv_usage == 0


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


class TestReference:
    def test_the_same_prompts_give_the_same_text(self, reference: LLM) -> None:
        assert tokens(reference.generate(PROMPTS, GREEDY)) == tokens(reference.generate(PROMPTS, GREEDY))

    def test_a_seed_fixes_what_is_drawn_whatever_runs_beside(self, reference: LLM) -> None:
        params = SamplingParams(seed=5, max_tokens=12, ignore_eos=True)
        together = tokens(reference.generate(PROMPTS, params))
        assert together == [tokens(reference.generate([prompt], params))[0] for prompt in PROMPTS]

    def test_the_models_defaults_are_taken(self, reference: LLM) -> None:
        assert reference.get_default_sampling_params() == SamplingParams(top_k=50, max_tokens=9)

    def test_sequences_end_where_config_or_generation_config_or_tokenizer_says_so(self, reference: LLM) -> None:
        assert reference.engine.defaults.eos_token_ids == {1, 2, 3}

    def test_a_score_is_what_generation_said(self, reference: LLM) -> None:
        [output] = reference.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=6, logprobs=0))
        [score] = reference.score([[5, 6, 7]], [output.outputs[0].token_ids])
        assert score.score == pytest.approx(output.outputs[0].cumulative_logprob, abs=1e-4)
        assert score.greedy

    def test_no_end_of_sequence_comes_before_min_tokens(self, reference: LLM) -> None:
        params = SamplingParams(seed=1, max_tokens=40, min_tokens=5, allowed_token_ids=(1, 2, 50), stop_token_ids=(50,))
        found = tokens(
            reference.generate([[5], [6]], msgspec.structs.replace(params, allowed_token_ids=(1, 2, 50, 51)))
        )
        assert all(ids[:5] == [51] * 5 for ids in found)
        assert all(ids[-1] != 51 for ids in found)

    def test_a_bad_word_is_never_written(self, reference: LLM) -> None:
        ids = reference.get_tokenizer().encode("ab", add_special_tokens=False)
        allowed = tuple(dict.fromkeys([*ids, 60]))
        params = SamplingParams(seed=1, max_tokens=40, allowed_token_ids=allowed)
        free, bound = (
            reference.generate([[5]], item)[0].outputs[0].text
            for item in (params, msgspec.structs.replace(params, bad_words=("ab",)))
        )
        assert "ab" in free
        assert "ab" not in bound

    def test_embeddings_of_one_token_are_the_same_for_both_poolings(self, reference: LLM) -> None:
        last, mean = (reference.embed([[7]], pooling=pooling)[0].embedding for pooling in ("last", "mean"))
        assert last == pytest.approx(mean, abs=1e-6)
        assert len(last) == 48
        assert any(last)

    def test_a_conversation_is_answered(self, reference: LLM) -> None:
        [output] = reference.chat([{"role": "user", "content": "fox"}], GREEDY)
        assert output.prompt == "<|bos|><|user|>fox<|assistant|>"
        assert len(output.outputs[0].token_ids) == 12

    def test_streamed_text_is_the_text_of_the_whole(self, reference: LLM, model_folder: Path) -> None:
        async def stream(llm: AsyncLLM, prompt: str | list[int]) -> str:
            params = msgspec.structs.replace(GREEDY, output_kind=OutputKind.DELTA)
            return "".join([output.outputs[0].text async for output in llm.generate(prompt, params)])

        async def main() -> list[str]:
            settings = {"backend": "reference", "load_format": "dummy", "num_blocks": 60}
            async with AsyncLLM(str(model_folder), **settings) as llm:
                return await asyncio.gather(*(stream(llm, prompt) for prompt in PROMPTS))

        assert asyncio.run(main()) == [output.outputs[0].text for output in reference.generate(PROMPTS, GREEDY)]


class TestNull:
    @pytest.mark.parametrize("overlap", [True, False])
    def test_two_hundred_streams_with_every_fifth_cancelled_lose_no_block(
        self, model_folder: Path, overlap: bool
    ) -> None:
        async def stream(llm: AsyncLLM, index: int) -> None:
            num_tokens, n = 5 + index % 40, 1 + index % 3
            params = SamplingParams(max_tokens=num_tokens, n=n, ignore_eos=True, output_kind=OutputKind.DELTA)
            count = 0
            async with aclosing(llm.generate([70 + index % 50] * (1 + index % 67), params)) as outputs:
                async for output in outputs:
                    count += sum(len(item.token_ids) for item in output.outputs)
                    if index % 5 == 0 and count > index % 7:
                        return
            assert count == num_tokens * n

        async def main() -> None:
            settings = {"num_blocks": 100, "block_size": 8, "max_num_seqs": 32, "max_num_batched_tokens": 96}
            options = {"verify": "full", "step_us": "200"}
            async with AsyncLLM(
                str(model_folder), backend="null", backend_options=options, overlap=overlap, **settings
            ) as llm:
                await asyncio.gather(*(stream(llm, index) for index in range(200)))
                while await llm.call(lambda: llm.engine.has_work):
                    await asyncio.sleep(0.001)
                await llm.check_integrity()
                stats = await llm.stats()
            assert stats.kv_usage == 0
            assert stats.num_preemptions > 0
            assert stats.num_prefix_hits > 0

        asyncio.run(main())

    def test_overlap_changes_no_token(self, model_folder: Path) -> None:
        def run(overlap: bool) -> list[list[int]]:
            prompts = [[10 + index] * (1 + 3 * index % 50) for index in range(60)]
            params = [SamplingParams(max_tokens=1 + 5 * index % 70, seed=index) for index in range(60)]
            settings = {"num_blocks": 80, "block_size": 8, "max_num_seqs": 24, "max_num_batched_tokens": 64}
            with LLM(str(model_folder), backend="null", overlap=overlap, **settings) as llm:
                return tokens(llm.generate(prompts, params))

        assert run(True) == run(False)

    def test_what_it_cannot_serve_it_refuses_with_its_reason(self, model_folder: Path) -> None:
        with (
            LLM(str(model_folder), backend="null") as llm,
            pytest.raises(RequestError, match="the backend cannot serve this request: logprobs needs logits"),
        ):
            llm.generate("fox", SamplingParams(logprobs=1))

    def test_a_folder_without_a_tokenizer_serves_token_ids(self, model_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
        with LLM(str(tmp_path), backend="null") as llm:
            assert (
                len(llm.generate([[5, 6]], SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0].token_ids) == 3
            )
            with pytest.raises(RequestError, match="a text prompt needs a tokenizer"):
                llm.generate("fox")

    def test_a_tokenizer_can_come_from_elsewhere(self, model_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
        with LLM(str(tmp_path), tokenizer=str(model_folder), backend="null") as llm:
            assert llm.generate("fox", SamplingParams(max_tokens=2))[0].prompt == "fox"

    def test_a_named_tokenizer_that_is_none_is_refused(self, model_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="holds no tokenizer"):
            LLM(str(model_folder), tokenizer=str(tmp_path), backend="null")
