"""The engine on XLA's CPU device, by each runtime: the reference's tokens, and nothing compiled after warm-up."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import jax
import pytest

from quire import LLM, SamplingParams
from quire.errors import BackendError, ConfigError
from quire_conformance.checkpoints import write_checkpoint

SETTINGS = {
    "dtype": "float32",
    "max_num_seqs": 4,
    "max_model_len": 96,
    "max_num_batched_tokens": 40,
    "enable_prefix_caching": False,
}
PROMPTS = [{"prompt_token_ids": list(range(9, 9 + length))} for length in (1, 13, 33, 60)]
GREEDY = [SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)] * 4
ASKING = [
    SamplingParams(temperature=0.9, top_k=20, seed=1, max_tokens=8, ignore_eos=True),
    SamplingParams(temperature=0.9, top_p=0.8, seed=2, max_tokens=8, ignore_eos=True, logprobs=3, prompt_logprobs=1),
    SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, repetition_penalty=1.4, logit_bias={11: 4.0}),
    SamplingParams(temperature=0.7, min_p=0.05, seed=4, max_tokens=8, ignore_eos=True),
]
COMPILED = "/jax/core/compile/backend_compile_duration"
INSTALLED = "torch_xla" if importlib.util.find_spec("torch_xla") else "jax"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("models"), "llama"))


@pytest.fixture(scope="module", params=["jax", "torch_xla"])
def runtime(request) -> str:
    if request.param != INSTALLED:
        pytest.skip(f"{INSTALLED} is installed here; `nox -s xla` tests torch_xla, which needs a torch of its own")
    return request.param


@pytest.fixture(scope="module")
def tpu(model, runtime) -> Iterator[LLM]:
    with LLM(model, backend="tpu", backend_options={"device": "cpu", "runtime": runtime}, **SETTINGS) as llm:
        yield llm


@pytest.fixture
def num_compiled(runtime) -> Iterator[Callable[[], int]]:
    """Return a count of the runtime's compilations since now."""
    if runtime == "torch_xla":
        from torch_xla.debug import metrics

        before = metrics.counter_value("UncachedCompile")
        yield lambda: metrics.counter_value("UncachedCompile") - before
        return
    compiled: list[str] = []

    def count(event: str, seconds: float, **facts: object) -> None:
        compiled.extend([event] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    yield lambda: len(compiled)
    jax.monitoring.unregister_event_duration_listener(count)


@pytest.fixture(scope="module")
def reference(model) -> Iterator[LLM]:
    with LLM(model, backend="reference", **SETTINGS) as llm:
        yield llm


def tokens(llm: LLM, params: list[SamplingParams]) -> list[list[int]]:
    outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("params", [GREEDY, ASKING], ids=["greedy", "asking for more"])
def test_tokens_are_the_reference_backends(tpu, reference, params):
    assert tokens(tpu, params) == tokens(reference, params)


def test_nothing_is_compiled_once_the_engine_has_started(tpu, num_compiled):
    for params in (GREEDY, ASKING, GREEDY[::-1]):
        tokens(tpu, params)
    assert num_compiled() == 0, f"{num_compiled()} programs were compiled while requests waited"


def test_the_count_of_compilations_counts(model, runtime, num_compiled):
    options = {"device": "cpu", "runtime": runtime, "compile": "lazily"}
    with LLM(model, backend="tpu", backend_options=options, **{**SETTINGS, "max_num_seqs": 3}) as llm:
        llm.generate(PROMPTS[:1], GREEDY[:1], use_tqdm=False)
    assert num_compiled() > 0


def test_without_a_tpu_it_says_how_to_emulate_one(model):
    with pytest.raises(BackendError, match="device=cpu"):
        LLM(model, backend="tpu", **SETTINGS)


def test_an_option_that_does_not_exist_is_refused(model):
    with pytest.raises(ConfigError, match="devise"):
        LLM(model, backend="tpu", backend_options={"devise": "cpu"}, **SETTINGS)
