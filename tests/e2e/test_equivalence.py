"""Whatever the engine does to be fast, the tokens are those of the plain path: one request alone, whole, cold."""

import numpy as np
import pytest

from quire import LLM, SamplingParams

VOCAB_SIZE = 211
BACKENDS = ("reference", "cpu-x86")
PLAIN = {
    "enable_prefix_caching": False,
    "overlap": False,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 512,
    "dtype": "float32",
}


def prompts(count=7, seed=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB_SIZE, size).tolist() for size in rng.integers(1, 90, count)]


def params(count, **changes):
    """Half greedy, half drawn with a seed of their own."""
    drawn = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01}
    return [
        SamplingParams(
            max_tokens=24, ignore_eos=True, seed=100 + i, **(drawn if i % 2 else {"temperature": 0.0}), **changes
        )
        for i in range(count)
    ]


def generate(folder, backend, requests, wanted, **settings):
    with LLM(str(folder), backend=backend, **{**PLAIN, **settings}) as llm:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in requests], wanted, use_tqdm=False)
        llm.engine.check_integrity()
    return [[list(completion.token_ids) for completion in output.outputs] for output in outputs]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def plain(tiny_llama, backend):
    """Tokens of each request served alone, whole, cold, without overlap."""
    return generate(tiny_llama, backend, prompts(), params(7))


def test_batched_requests_give_the_tokens_of_each_alone(tiny_llama, backend, plain):
    assert generate(tiny_llama, backend, prompts(), params(7), max_num_seqs=8) == plain


@pytest.mark.parametrize("budget", [5, 16, 37])
def test_chunked_prompts_give_the_tokens_of_whole_ones(tiny_llama, backend, plain, budget):
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": budget}
    assert generate(tiny_llama, backend, prompts(), params(7), **settings) == plain


def test_overlapped_steps_give_the_tokens_of_plain_ones(tiny_llama, backend, plain):
    settings = {"max_num_seqs": 4, "overlap": True, "max_num_batched_tokens": 32}
    options = {"backend_options": {"max_in_flight": "2"}}
    assert generate(tiny_llama, backend, prompts(), params(7), **settings, **options) == plain


def test_preempted_requests_give_the_tokens_of_undisturbed_ones(tiny_llama, backend, plain):
    settings = {"max_num_seqs": 7, "num_blocks": 18, "max_model_len": 128, "watermark": 0.0}
    with LLM(str(tiny_llama), backend=backend, **{**PLAIN, **settings}) as llm:
        requests = [{"prompt_token_ids": ids} for ids in prompts()]
        outputs = llm.generate(requests, params(7), use_tqdm=False)
        assert llm.engine.stats().num_preemptions > 0, "the pool was large enough: this tests nothing"
    assert [[list(item.token_ids) for item in output.outputs] for output in outputs] == plain


def test_a_prefix_hit_gives_the_tokens_of_a_cold_run(tiny_llama, backend, plain):
    with LLM(str(tiny_llama), backend=backend, **{**PLAIN, "max_num_seqs": 4, "enable_prefix_caching": True}) as llm:
        requests = [{"prompt_token_ids": ids} for ids in prompts()]
        llm.generate(requests, params(7), use_tqdm=False)
        again = llm.generate(requests, params(7), use_tqdm=False)
    assert sum(output.num_cached_tokens for output in again) > 0
    assert [[list(item.token_ids) for item in output.outputs] for output in again] == plain


def test_shared_prompts_of_n_samples_give_the_tokens_of_separate_requests(tiny_llama, backend):
    prompt = prompts(1, seed=5)[0]
    drawn = {"temperature": 1.0, "max_tokens": 20, "ignore_eos": True}
    shared = generate(
        tiny_llama, backend, [prompt], [SamplingParams(n=4, seed=7, **drawn)], max_num_seqs=8, max_num_batched_tokens=16
    )
    separate = generate(tiny_llama, backend, [prompt] * 4, [SamplingParams(seed=7 + i, **drawn) for i in range(4)])
    assert shared[0] == [item[0] for item in separate]
    assert len({tuple(tokens) for tokens in shared[0]}) == 4, "four seeds, four texts"
