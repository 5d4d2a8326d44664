"""The engine on XLA's CPU device: the reference's tokens, and nothing compiled after warm-up."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("models"), "llama"))


@pytest.fixture(scope="module")
def tpu(model) -> Iterator[LLM]:
    with LLM(model, backend="tpu", backend_options={"device": "cpu"}, **SETTINGS) as llm:
        yield llm


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


def test_nothing_is_compiled_once_the_engine_has_started(tpu):
    compiled: list[str] = []

    def count(event: str, seconds: float, **facts: object) -> None:
        compiled.extend([event] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for params in (GREEDY, ASKING, GREEDY[::-1]):
            tokens(tpu, params)
        served = len(compiled)
        jax.jit(lambda x: x * 7 + 1)(jax.numpy.arange(5))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert served == 0, f"{served} programs were compiled while requests waited"
    assert compiled, "the counter does not count"


def test_without_a_tpu_it_says_how_to_emulate_one(model):
    with pytest.raises(BackendError, match="device=cpu"):
        LLM(model, backend="tpu", **SETTINGS)


def test_an_option_that_does_not_exist_is_refused(model):
    with pytest.raises(ConfigError, match="devise"):
        LLM(model, backend="tpu", backend_options={"devise": "cpu"}, **SETTINGS)
