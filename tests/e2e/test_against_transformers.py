"""What comes out of the engine is what transformers computes."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from quire import LLM, SamplingParams

VOCAB_SIZE = 211
BACKENDS = ("reference", "cpu-x86")


def prompts(count=5, seed=11):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB_SIZE, size).tolist() for size in rng.integers(1, 60, count)]


@pytest.fixture(scope="module")
def oracle(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=BACKENDS)
def llm(request, tiny_llama):
    with LLM(str(tiny_llama), backend=request.param, dtype="float32", max_num_seqs=8) as llm:
        yield llm


def oracle_logprobs(oracle, token_ids):
    with torch.inference_mode():
        return oracle(torch.tensor([token_ids])).logits[0].log_softmax(-1)


def test_greedy_tokens_equal_transformers(llm, oracle):
    wanted = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    for prompt, output in zip(prompts(), llm.generate(prompts(), wanted, use_tqdm=False), strict=True):
        settings = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = oracle.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()
        assert list(output.outputs[0].token_ids) == expected


def test_logprobs_of_outputs_equal_transformers(llm, oracle):
    wanted = SamplingParams(temperature=0.7, seed=1, max_tokens=9, ignore_eos=True, logprobs=3)
    prompt = prompts()[0]
    completion = llm.generate([prompt], wanted, use_tqdm=False)[0].outputs[0]
    expected = oracle_logprobs(oracle, prompt + list(completion.token_ids))[len(prompt) - 1 :]
    for token_id, entry, row in zip(completion.token_ids, completion.logprobs, expected, strict=False):
        assert entry[token_id].logprob == pytest.approx(row[token_id].item(), abs=1e-4)
        assert set(row.topk(3).indices.tolist()) <= set(entry)


def test_logprobs_of_prompts_equal_transformers(llm, oracle):
    prompt = prompts()[1]
    wanted = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=2)
    found = llm.generate([prompt], wanted, use_tqdm=False)[0].prompt_logprobs
    expected = oracle_logprobs(oracle, prompt)
    assert found[0] is None and len(found) == len(prompt)
    for position, entry in enumerate(found[1:], 1):
        row = expected[position - 1]
        assert entry[prompt[position]].logprob == pytest.approx(row[prompt[position]].item(), abs=1e-4)


@pytest.fixture(scope="module", params=[512, 16], ids=["whole", "chunked"])
def embedder(request, tiny_llama):
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": request.param}
    with LLM(str(tiny_llama), backend="reference", dtype="float32", **settings) as llm:
        yield llm


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_are_transformers_hidden_states(embedder, oracle, pooling):
    found = embedder.embed(prompts(), pooling=pooling, use_tqdm=False)
    for prompt, output in zip(prompts(), found, strict=True):
        with torch.inference_mode():
            hidden = oracle.model(torch.tensor([prompt])).last_hidden_state[0]
        expected = hidden[-1] if pooling == "last" else hidden.mean(0)
        assert output.embedding == pytest.approx(expected.tolist(), abs=1e-4)


def test_scores_are_sums_of_transformers_logprobs(llm, oracle):
    prompt, continuation = prompts()[2], [7, 5, 3]
    [score] = llm.score([prompt], [continuation])
    rows = oracle_logprobs(oracle, prompt + continuation)[len(prompt) - 1 : -1]
    expected = rows[torch.arange(3), torch.tensor(continuation)].sum().item()
    assert score.score == pytest.approx(expected, abs=1e-3)
