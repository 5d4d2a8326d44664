"""The whole engine on Triton's kernels: the tokens are the reference's, from padded steps of every kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from quire import LLM, SamplingParams

PROMPTS = [[5, 9, 23, 7], [11] * 19, [3, 4]]
WANTED = [
    SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True),
    SamplingParams(max_tokens=5, temperature=0.9, seed=3, ignore_eos=True),
    SamplingParams(max_tokens=3, temperature=0.8, seed=4, top_k=9, top_p=0.9, presence_penalty=0.5, ignore_eos=True),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=67,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("model")
    with torch.inference_mode(False):
        Qwen3ForCausalLM(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture
def interpreted(tmp_path, monkeypatch) -> str:
    """Announce the test's backend as an installed distribution would; return its name."""
    info = tmp_path / "interpreted-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: interpreted\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[quire.backends]\ninterpreted = interpreted_backend\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(Path(__file__).parent), *sys.path])
    return "interpreted"


def generate(model, backend):
    with LLM(str(model), backend=backend, dtype="float32", max_num_seqs=4, max_num_batched_tokens=64) as llm:
        prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
        outputs = llm.generate(prompts, WANTED, use_tqdm=False)
        providers = {item.request.op: item.provider for item in llm.engine.executor._context.table.resolutions}
    return [list(output.outputs[0].token_ids) for output in outputs], providers


def test_the_engine_gives_the_references_tokens(model, interpreted):
    tokens, providers = generate(model, interpreted)
    assert {name for name, provider in providers.items() if provider != "triton"} == set()
    assert tokens == generate(model, "reference")[0]
