"""An engine that rests: paused it schedules nothing and loses nothing; asleep it holds no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quire.engine import Engine
from quire.errors import BackendError, RequestError
from quire.llm import LLM
from quire.plan import NewRow
from quire.sampling import SamplingParams

Open = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def count_up(seat: NewRow, index: int) -> int:
    return 10 + index


def run(engine: Engine) -> list[int]:
    """Step until there is nothing to do; return the tokens that came."""
    found = []
    while engine.has_work:
        for output in engine.step():
            found = output.outputs[0].token_ids
    return found


def test_paused_it_collects_what_is_under_way_and_stops(open_scripted: Open, in_flight: int) -> None:
    engine = open_scripted(count_up, in_flight=in_flight)
    engine.add("r", [5], SamplingParams(max_tokens=9))
    engine.step()
    engine.is_paused = True
    told = run(engine)
    assert len(told) < 9 and engine.stats().num_running == 1
    engine.is_paused = False
    assert run(engine) == list(range(10, 19))
    engine.check_integrity()


def test_paused_it_takes_requests_and_ends_them(open_scripted: Open) -> None:
    engine = open_scripted(count_up)
    engine.is_paused = True
    engine.add("a", [5], SamplingParams(max_tokens=3))
    engine.add("b", [5], SamplingParams(max_tokens=3))
    assert not engine.has_work and engine.step() == []
    assert engine.abort("a") and engine.stats().num_waiting == 1
    engine.is_paused = False
    assert run(engine) == [10, 11, 12]


def test_an_executor_that_keeps_its_memory_cannot_sleep(open_scripted: Open) -> None:
    with pytest.raises(BackendError, match="cannot give its memory back"):
        open_scripted(count_up).sleep()


def test_a_backend_that_does_not_claim_sleep_is_not_put_to_sleep(model_folder: Path) -> None:
    with (
        LLM(str(model_folder), backend="reference", load_format="dummy", num_blocks=60, max_num_seqs=4) as llm,
        pytest.raises(BackendError, match="'reference' cannot give its memory back"),
    ):
        llm.engine.sleep()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    pytest.importorskip("quire_cpu_x86")
    with LLM("demo", backend="cpu-x86", num_blocks=160, max_num_seqs=4) as llm:
        yield llm


class TestSleep:
    def test_it_gives_its_memory_back_and_writes_the_same_text_after(self, llm: LLM) -> None:
        before, [held] = llm.engine.executor.memory_report(), llm.generate(["import os\n"], GREEDY)
        freed = llm.engine.sleep()
        asleep = llm.engine.executor.memory_report()
        assert freed == before["weights"] + before["kv"] > 0
        assert asleep["weights"] == asleep["kv"] == 0
        assert llm.engine.sleep() == 0
        llm.engine.wake()
        assert llm.engine.executor.memory_report() == before
        [again] = llm.generate(["import os\n"], GREEDY)
        assert again.outputs[0].text == held.outputs[0].text and again.num_cached_tokens == 0

    def test_requests_that_come_meanwhile_wait(self, llm: LLM) -> None:
        llm.engine.sleep()
        llm.engine.add("r", [5, 6], GREEDY)
        assert not llm.engine.has_work
        llm.engine.wake()
        assert len(run(llm.engine)) == 8

    def test_it_does_not_sleep_while_there_are_requests(self, llm: LLM) -> None:
        llm.engine.add("r", [5, 6], GREEDY)
        with pytest.raises(RequestError, match="1 wait"):
            llm.engine.sleep()
        llm.engine.abort("r")
        llm.engine.check_integrity()
