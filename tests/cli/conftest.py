"""A model folder with a tokenizer and a chat template, and no weights: tests make those up."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner, Result

from quire.cli.app import make_app

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 257,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 256,
    "dtype": "float32",
}
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level model: one token for each byte, so every prompt can be told."""
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = {"eos_token": "<eos>", "chat_template": CHAT_TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(chat))
    return str(folder)


@pytest.fixture
def quire() -> Callable[..., Result]:
    """Run the command line in this process: `quire("backends", "--json")`."""

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(make_app(), list(arguments), input=stdin)

    return invoke


@pytest.fixture
def on_reference() -> Sequence[str]:
    """The options that run the made-up model on the reference backend."""
    return ("--backend", "reference", "--load-format", "dummy", "--memory", "64MB")


@pytest.fixture(scope="session")
def model_of_long_context(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with a context of 1,024 tokens."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": 1024}))
    return str(folder)
