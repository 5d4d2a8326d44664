"""The whole engine on the backend's code: the tokens are the reference's, with two steps in flight."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import Qwen3Config

from quire import LLM, SamplingParams

PROMPTS = [[5, 9, 23, 7], [11] * 19, [3, 4]]
WANTED = [
    SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True),
    SamplingParams(max_tokens=5, temperature=0.9, seed=3, ignore_eos=True),
    SamplingParams(max_tokens=3, temperature=0.8, seed=4, top_k=9, top_p=0.9, presence_penalty=0.5, ignore_eos=True),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A shape without weights: both backends fill them in from the same seed."""
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=67,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
    )
    config.save_pretrained(folder := tmp_path_factory.mktemp("model"))
    return folder


@pytest.fixture
def backend(tmp_path, monkeypatch, stand_in) -> str:
    """Announce the stand-in's backend as an installed distribution would; return its name."""
    info = tmp_path / "stand_in-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[quire.backends]\nstand-in = stand_in_backend\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(Path(__file__).parent), *sys.path])
    return "stand-in"


def generate(model, backend):
    engine = {"dtype": "float32", "load_format": "dummy", "max_num_seqs": 4, "max_num_batched_tokens": 16}
    with LLM(str(model), backend=backend, **engine) as llm:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], WANTED, use_tqdm=False)
        providers = {item.request.op: item.provider for item in llm.engine.executor._context.table.resolutions}
    return [list(output.outputs[0].token_ids) for output in outputs], providers


def test_the_engine_gives_the_references_tokens(model, backend):
    tokens, providers = generate(model, backend)
    assert set(providers.values()) == {"triton"}
    assert tokens == generate(model, "reference")[0]
    assert len({token for row in tokens for token in row}) > 4, "dummy weights must not give one token for all"
