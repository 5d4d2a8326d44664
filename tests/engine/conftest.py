"""Tokenizers made in the test process: byte-level BPE as GPT-2's, and byte fallback as Llama 2's."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from quire.tokenizer import Tokenizer

CORPUS = (
    "the quick brown fox jumps over the lazy dog; it does so once, twice, three times",
    "one token after another, a text grows: héllo wörld, naïve café, 你好世界, привет",
    "stop. stop! STOP? END of text\n\nnew paragraph </tool> and <tool> calls",
)
SPECIALS = ("<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_byte_level_backend() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def make_byte_fallback_backend() -> Backend:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehlortw", "▁a"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return backend


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    named = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    return Tokenizer(make_byte_level_backend(), named_tokens=named, chat_templates={"default": CHAT_TEMPLATE})


@pytest.fixture(scope="session")
def byte_fallback_tokenizer() -> Tokenizer:
    return Tokenizer(make_byte_fallback_backend(), named_tokens={"eos_token": "</s>"})


@pytest.fixture(scope="session")
def word_tokenizer() -> Tokenizer:
    """Whole words, joined by spaces in decoding."""
    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend)
