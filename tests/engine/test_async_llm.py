"""AsyncLLM: many streams at once, each cancelled, refused or failed alone; nothing waits for ever, nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from quire.async_llm import AsyncLLM
from quire.engine import Engine
from quire.errors import EngineDeadError, QueueFullError, RequestAborted, RequestError
from quire.outputs import CompletionOutput, ScoreOutput
from quire.plan import NewRow
from quire.sampling import OutputKind, SamplingParams

Script = Callable[[NewRow, int], int]
Say = Callable[[str], Script]
Open = Callable[..., Engine]
T = TypeVar("T")

DELTA = OutputKind.DELTA
LONG = SamplingParams(max_tokens=90, output_kind=DELTA)
SLOW = 0.005  # seconds a step, where a test must act while a request runs


def echo(seat: NewRow, index: int) -> int:
    return int(seat.token_ids[index % seat.prompt_len])


def serve(engine: Engine, scenario: Callable[[AsyncLLM], Coroutine[Any, Any, T]]) -> T:
    """Run a scenario on an AsyncLLM and leave it at rest: no block lost, no thread left."""

    async def main() -> T:
        async with AsyncLLM.from_engine(engine) as llm:
            result = await asyncio.wait_for(scenario(llm), 60)
            if llm.death is None:
                await come_to_rest(llm)
            return result

    num_threads = threading.active_count()
    result = asyncio.run(main())
    assert threading.active_count() <= num_threads
    return result


async def come_to_rest(llm: AsyncLLM) -> None:
    while await llm.call(lambda: llm.engine.has_work):
        await asyncio.sleep(0)
    await llm.check_integrity()
    assert (await llm.stats()).kv_usage == 0


async def collect(llm: AsyncLLM, prompt: Any, params: SamplingParams = LONG, request_id: str | None = None) -> str:
    return "".join([output.outputs[0].text async for output in llm.generate(prompt, params, request_id)])


async def read(llm: AsyncLLM, prompt: Any, params: SamplingParams = LONG) -> list[int]:
    return [token async for output in llm.generate(prompt, params) for token in output.outputs[0].token_ids]


class TestStreams:
    def test_deltas_join_to_the_text(self, open_scripted: Open, say: Say) -> None:
        assert serve(open_scripted(say("naïve 😀 fox")), lambda llm: collect(llm, "the")) == "naïve 😀 fox"

    def test_a_slow_reader_gets_all_the_news_in_fewer_outputs(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> list[CompletionOutput]:
            found = []
            async for output in llm.generate([70, 71], LONG):
                found.append(output.outputs[0])
                await asyncio.sleep(0.05)
            return found

        engine = open_scripted(echo, delay_s=0.001)
        found = serve(engine, scenario)
        assert [token for item in found for token in item.token_ids] == [70, 71] * 45
        assert engine.tokenizer is not None
        assert "".join(item.text for item in found) == engine.tokenizer.decode([70, 71] * 45)
        assert len(found) < 45

    def test_cumulative_outputs_end_with_the_whole(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> list[int]:
            outputs = [output async for output in llm.generate([70], SamplingParams(max_tokens=20))]
            return outputs[-1].outputs[0].token_ids

        assert serve(open_scripted(echo), scenario) == [70] * 20

    def test_streams_at_once_do_not_mix(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> list[list[int]]:
            return await asyncio.gather(
                *(read(llm, [70 + index], SamplingParams(max_tokens=9, output_kind=DELTA)) for index in range(50))
            )

        assert serve(open_scripted(echo), scenario) == [[70 + index] * 9 for index in range(50)]

    def test_two_event_loops_can_share_one_engine(self, open_scripted: Open) -> None:
        llm = AsyncLLM.from_engine(open_scripted(echo))
        found: dict[int, list[int]] = {}

        def work(first: int) -> None:
            found[first] = asyncio.run(read(llm, [first]))

        threads = [threading.Thread(target=work, args=(first,)) for first in (70, 80)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        llm.close()
        assert found == {70: [70] * 90, 80: [80] * 90}

    def test_a_conversation_goes_through_the_template(self, open_scripted: Open, say: Say) -> None:
        async def scenario(llm: AsyncLLM) -> str | None:
            outputs = [output async for output in llm.chat([{"role": "user", "content": "fox"}], LONG)]
            return outputs[-1].prompt

        assert serve(open_scripted(say("dog")), scenario) == "<|bos|><|user|>fox<|assistant|>"

    def test_a_long_text_is_tokenized_beside_the_event_loop(self, open_scripted: Open) -> None:
        with pytest.raises(RequestError, match="max_model_len is 100"):
            serve(open_scripted(echo), lambda llm: collect(llm, "fox " * 10_000))

    def test_a_score_comes_without_a_stream(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> ScoreOutput:
            return await llm.score([70, 71], [10, 20, 30])

        scored = serve(open_scripted(echo), scenario)
        assert scored.token_ids == [10, 20, 30]
        assert scored.score == pytest.approx(-0.6)

    def test_a_score_of_nothing_is_refused(self, open_scripted: Open) -> None:
        with pytest.raises(RequestError, match="the continuation has no token"):
            serve(open_scripted(echo), lambda llm: llm.score("fox", ""))

    def test_embeddings_come_without_a_stream(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> list[float]:
            return (await llm.embed([70, 71, 72], pooling="mean")).embedding

        assert serve(open_scripted(echo), scenario) == [1.0, 3.0]


class TestEnding:
    def test_leaving_the_loop_aborts_the_request(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> None:
            async with aclosing(llm.generate([70], LONG)) as outputs:
                async for _ in outputs:
                    break
            await come_to_rest(llm)
            assert (await llm.stats()).num_scheduled_tokens < 80

        serve(open_scripted(echo, delay_s=SLOW), scenario)

    def test_a_cancelled_task_aborts_its_request(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> None:
            task = asyncio.create_task(collect(llm, [70]))
            await asyncio.sleep(5 * SLOW)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await come_to_rest(llm)
            assert (await llm.stats()).num_scheduled_tokens < 80

        serve(open_scripted(echo, delay_s=SLOW), scenario)

    def test_a_dropped_stream_aborts_its_request(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> None:
            outputs = llm.generate([70], LONG)
            await anext(outputs)
            del outputs
            gc.collect()
            await asyncio.sleep(0)
            await come_to_rest(llm)
            assert (await llm.stats()).num_scheduled_tokens < 80

        serve(open_scripted(echo, delay_s=SLOW), scenario)

    def test_abort_ends_the_stream_with_an_error(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> None:
            task = asyncio.create_task(collect(llm, [70], request_id="mine"))
            await asyncio.sleep(5 * SLOW)
            await llm.abort("mine")
            with pytest.raises(RequestAborted, match="'mine' was aborted"):
                await task
            await llm.abort("mine")

        serve(open_scripted(echo, delay_s=SLOW), scenario)

    def test_closing_ends_all_streams(self, open_scripted: Open) -> None:
        engine: Any = open_scripted(echo, delay_s=SLOW)

        async def main() -> None:
            llm = AsyncLLM.from_engine(engine)
            tasks = [asyncio.create_task(collect(llm, [70])) for _ in range(3)]
            await asyncio.sleep(5 * SLOW)
            await asyncio.to_thread(llm.close)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(item) for item in results] == [RequestAborted] * 3
            with pytest.raises(EngineDeadError, match="was shut down"):
                await collect(llm, [70])
            with pytest.raises(EngineDeadError, match="was shut down"):
                await llm.stats()

        asyncio.run(main())
        assert engine.executor.stopped

    def test_an_id_in_use_does_not_disturb_its_owner(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> str:
            owner = asyncio.create_task(collect(llm, [70], request_id="r"))
            await asyncio.sleep(5 * SLOW)
            with pytest.raises(RequestError, match="in use"):
                await collect(llm, [71], request_id="r")
            return await owner

        tokenizer: Any = open_scripted(echo).tokenizer
        assert serve(open_scripted(echo, delay_s=SLOW), scenario) == tokenizer.decode([70] * 90)


class TestRefusing:
    def test_a_bad_request_is_refused_at_once(self, open_scripted: Open) -> None:
        with pytest.raises(RequestError, match="empty"):
            serve(open_scripted(echo), lambda llm: collect(llm, []))

    @pytest.mark.parametrize("limit", [{"max_queued_requests": 3}, {"max_queued_tokens": 6}])
    def test_a_full_queue_refuses_at_once(self, open_scripted: Open, limit: dict[str, int]) -> None:
        engine = open_scripted(echo, delay_s=0.1, max_num_seqs=1, **limit)

        async def scenario(llm: AsyncLLM) -> None:
            running = asyncio.create_task(collect(llm, [70, 71], SamplingParams(max_tokens=3)))
            while not engine.scheduler.num_running:
                await asyncio.sleep(0.01)
            waiting = [asyncio.create_task(collect(llm, [72, 73], SamplingParams(max_tokens=1))) for _ in range(3)]
            await asyncio.sleep(0)
            started = time.perf_counter()
            with pytest.raises(QueueFullError, match="try again later"):
                await collect(llm, [74, 75])
            assert time.perf_counter() - started < 0.05
            await asyncio.gather(running, *waiting)
            await collect(llm, [74, 75], SamplingParams(max_tokens=1))

        serve(engine, scenario)


class TestFailing:
    def test_a_failing_row_ends_its_stream_alone(self, open_scripted: Open, row_failure: type[Exception]) -> None:
        def script(seat: NewRow, index: int) -> int:
            if seat.token_ids[0] == 71 and index == 3:
                raise row_failure("NaN in the logits")
            return 70

        async def scenario(llm: AsyncLLM) -> list[Any]:
            streams = [read(llm, [first]) for first in (70, 71, 72)]
            return await asyncio.gather(*streams, return_exceptions=True)

        first, failed, last = serve(open_scripted(script), scenario)
        assert first == last == [70] * 90
        assert isinstance(failed, RequestError)
        assert "NaN in the logits" in str(failed)

    def test_the_engines_death_wakes_all_waiters_with_the_cause(self, open_scripted: Open) -> None:
        def script(seat: NewRow, index: int) -> int:
            if index == 9:
                raise MemoryError("the device is gone")
            return 70

        async def scenario(llm: AsyncLLM) -> list[Any]:
            streams = [collect(llm, [70 + index]) for index in range(40)]
            found = await asyncio.gather(*streams, return_exceptions=True)
            with pytest.raises(EngineDeadError, match="the device is gone"):
                await collect(llm, [70])
            assert llm.death is not None
            return found

        engine: Any = open_scripted(script)
        for error in serve(engine, scenario):
            assert isinstance(error, EngineDeadError)
            assert isinstance(error.__cause__, MemoryError)
        assert engine.executor.stopped


class TestLoad:
    def test_two_hundred_streams_with_every_fifth_cancelled_lose_no_block(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> None:
            async def stream(index: int) -> int:
                params = SamplingParams(max_tokens=5 + index % 40, n=1 + index % 3, output_kind=DELTA)
                count = 0
                async with aclosing(llm.generate([70 + index % 50] * (1 + index % 23), params)) as outputs:
                    async for output in outputs:
                        count += sum(len(item.token_ids) for item in output.outputs)
                        if index % 5 == 0 and count > index % 7:
                            return -1
                assert count == (5 + index % 40) * (1 + index % 3)
                return count

            counts = await asyncio.gather(*(stream(index) for index in range(200)))
            assert counts.count(-1) == 40

        serve(open_scripted(echo, num_blocks=100), scenario)

    def test_an_idle_engine_takes_no_cpu_time(self, open_scripted: Open) -> None:
        async def scenario(llm: AsyncLLM) -> float:
            await collect(llm, [70])
            await come_to_rest(llm)
            before = time.process_time()
            await asyncio.sleep(1)
            return time.process_time() - before

        assert serve(open_scripted(echo), scenario) < 0.05
