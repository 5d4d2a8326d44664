"""What a step takes: planned through the engine's own layers, measured by the engine."""

import json
import subprocess
import sys

import pytest
import torch

from quire.cli.plan import make_plan
from quire.config import make_config
from quire.execution.live_bytes import LiveBytes
from quire.opening import open_engine
from quire.sampling import SamplingParams

SHAPE = {
    "vocab_size": 1009,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 0,
    "dtype": "float32",
}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 64, "hidden_activation": "gelu_pytorch_tanh"}
MODELS = {
    "LlamaForCausalLM": {"model_type": "llama", "tie_word_embeddings": False},
    "Qwen3ForCausalLM": {"model_type": "qwen3"},
    "Gemma2ForCausalLM": {"model_type": "gemma2", "final_logit_softcapping": 30.0, **GEMMA},
    "Gemma3ForCausalLM": {"model_type": "gemma3_text", **GEMMA},
    "MixtralForCausalLM": {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2},
    "GraniteForCausalLM": {"model_type": "granite", "embedding_multiplier": 12.0, "residual_multiplier": 0.2},
}


@pytest.fixture
def make_model(tmp_path):
    def make(architecture: str) -> str:
        config = {**SHAPE, **MODELS[architecture], "architectures": [architecture]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return make


def planned_and_measured(model: str, **settings):
    settings = {"memory_bytes": 2**28, "max_num_seqs": 7, "load_format": "dummy", **settings}
    engine = open_engine(make_config({"model": model, **settings}))
    try:
        return make_plan(model, settings).memory, engine.executor.memory_report(), engine.facts
    finally:
        engine.shutdown()


@pytest.mark.parametrize("backend", ["reference", "cpu-x86"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", MODELS)
def test_the_plan_is_what_the_engine_measures(make_model, architecture, dtype, backend):
    settings = {"backend": backend, "dtype": dtype, "max_num_batched_tokens": 509}
    plan, report, facts = planned_and_measured(make_model(architecture), **settings)
    assert plan.num_blocks == facts.num_blocks
    assert plan.weights_bytes == report["weights"]
    assert plan.workspace_bytes == report["workspace"]
    assert plan.kv_bytes == report["kv"]
    assert plan.total_bytes == pytest.approx(sum(report.values()), rel=0.05)
    assert plan.activations_bytes == pytest.approx(report["activations"], rel=0.15)


@pytest.mark.parametrize("tokens", [64, 8192])
@pytest.mark.parametrize("backend", ["reference", "cpu-x86"])
def test_it_is_at_any_token_budget(make_model, tokens, backend):
    settings = {"backend": backend, "max_num_batched_tokens": tokens, "max_num_seqs": 17, "memory_bytes": 2**29}
    plan, report, _ = planned_and_measured(make_model("Qwen3ForCausalLM"), **settings)
    assert plan.total_bytes == pytest.approx(sum(report.values()), rel=0.05)
    assert plan.activations_bytes == pytest.approx(report["activations"], rel=0.15)


def test_measuring_leaves_cached_prefixes_as_they_were(make_model):
    engine = open_engine(
        make_config({"model": make_model("LlamaForCausalLM"), "load_format": "dummy", "max_num_seqs": 3})
    )
    try:
        first = run(engine, "a")
        engine.executor.memory_report()
        again = run(engine, "b")
    finally:
        engine.shutdown()
    assert again.num_cached_tokens > 0
    assert again.outputs[0].token_ids == first.outputs[0].token_ids


def run(engine, request_id: str):
    engine.add(request_id, list(range(1, 60)), SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs[-1]


def test_planning_imports_no_compiler(make_model):
    code = "import sys; from quire.cli.plan import make_plan; make_plan(sys.argv[1], {'backend': 'reference'});"
    code += "assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, make_model("Gemma2ForCausalLM")], check=True)


# -- counting ----------------------------------------------------------------------------------------------------------


def test_tensors_count_while_they_live():
    live = LiveBytes()
    with live:
        first = torch.empty(1000)
        second = first + 1
        del first
        third = second.double()
    assert (live.now, live.peak) == (12_000, 12_000)
    del second, third
    assert (live.now, live.peak) == (0, 12_000)


def test_views_writes_and_what_was_there_count_nothing():
    before = torch.empty(10, 10)
    live = LiveBytes()
    with live:
        views = before[1:], before.T, before.view(100)
        before.add_(1)
    assert live.peak == 0
    assert len(views) == 3


def test_torchs_profiler_counts_the_same():
    def work() -> None:
        x = torch.ones(64, 257)
        for _ in range(3):
            x = torch.softmax(x @ torch.ones(257, 257), -1) * 2 + x

    live = LiveBytes()
    with live:
        work()
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    changes = [event.nbytes() for event in profile.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    assert live.peak == pytest.approx(peak, rel=0.01)
