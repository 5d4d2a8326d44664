"""The engine under Neuron's rules, on XLA's CPU device: the reference's tokens, and every program checked."""

from __future__ import annotations

import pytest

from quire import LLM, SamplingParams
from quire.backend.manager import build_executor
from quire.config import make_config
from quire_conformance.checkpoints import write_checkpoint
from quire_kernels_xla.buckets import StaticProgramBuilder
from quire_kernels_xla.executor import StaticExecutor
from quire_neuron.plugin import NEURON

SETTINGS = {"dtype": "float32", "max_num_seqs": 4, "max_model_len": 96, "max_num_batched_tokens": 40}
PROMPTS = [{"prompt_token_ids": list(range(9, 9 + length))} for length in (1, 13, 60)]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=10, ignore_eos=True),
    SamplingParams(temperature=0.9, top_k=20, top_p=0.9, seed=1, max_tokens=10, ignore_eos=True),
    SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, frequency_penalty=0.4),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("models"), "llama"))


def test_tokens_are_the_reference_backends(model):
    answers = []
    for backend, options in (("reference", {}), ("neuron", {"device": "cpu"})):
        with LLM(model, backend=backend, backend_options=options, **SETTINGS) as llm:
            outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
        answers.append([list(output.outputs[0].token_ids) for output in outputs])
    assert answers[0] == answers[1]


def test_every_program_is_shown_to_the_checker_before_it_is_compiled(model):
    config = make_config(
        {"model": model, "backend": "neuron", "backend_options": {"device": "cpu", "compile": "lazily"}, **SETTINGS}
    )
    _, context = build_executor(config)
    seen: list[str] = []
    executor = StaticExecutor(context, StaticProgramBuilder(NEURON.sizes), ahead=False, check=seen.append)
    executor.start()
    assert len(seen) == executor.num_compiled > 0
    assert all("stablehlo" in text for text in seen)
    executor.stop()


def test_a_step_is_one_prompt_or_only_decodes():
    schedule = NEURON.sizes.constraints()
    assert not schedule.mix_prefill_decode
    assert schedule.max_prefill_requests == 1


def test_buckets_are_few():
    assert len(NEURON.sizes.buckets(2048, 64)) <= 6
