"""Train the byte-level BPE tokenizer, encode the corpus, and check that every token goes round.

    python train_tokenizer.py DATA_DIR MODEL_DIR TOKENS_DIR

reads DATA_DIR/documents.jsonl; writes MODEL_DIR/tokenizer.json and tokenizer_config.json, and one uint16 array of
tokens per group and split to TOKENS_DIR (train_python.npy, held_out_chat.npy, …). Documents end in <|endoftext|>.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sources import SOURCES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 8192
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Words with their leading blank, single digits, punctuation, runs of blanks: as the field's tokenizers split.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
AWKWARD = (
    "", " ", "\n", "\t\tdef f():\r\n", "  two  spaces  ", "naïve café", "日本語のテキスト", "🙂👩‍👩‍👧", "\u00a0\u200b",
    "x" * 97, "0123456789", "\x00\x7f", "don't", "a\n\n\n\n\nb", "e\u0301", "العربية",
)  # fmt: skip


def read_documents(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Train on the training split; special tokens take ids 0, 1, 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Every training document follows an <|endoftext|>, so a prompt does too.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def check_round_trip(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Raise ValueError if some text does not come back byte for byte."""
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            raise ValueError(f"round trip changed {text[:80]!r}")


def write_tokenizer(tokenizer: Tokenizer, model_dir: Path) -> None:
    model_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(model_dir / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
    }
    (model_dir / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Encode documents into one array, each ended by <|endoftext|> (id 0)."""
    parts = []
    for start in range(0, len(texts), 1000):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False):
            parts.append(np.array([*encoding.ids, 0], dtype=np.uint16))
    return np.concatenate(parts)


def is_chat_about(document: dict[str, str], sources: set[str]) -> bool:
    return document["group"] == "chat" and document["source"] in sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    args = parser.parse_args()
    args.tokens.mkdir(parents=True, exist_ok=True)
    documents = list(read_documents(args.data / "documents.jsonl"))
    plain = (d["text"] for d in documents if d["split"] == "train" and d["group"] != "chat")
    tokenizer = train_tokenizer(plain)
    check_round_trip(tokenizer, [*AWKWARD, *(d["text"] for d in documents[:2000])])
    write_tokenizer(tokenizer, args.model)
    python_sources = {source.package for source in SOURCES if source.group == "python"} | {"small_talk.py"}
    documents += [{**d, "group": "python_chat"} for d in documents if is_chat_about(d, python_sources)]
    for group in ("python", "more", "chat", "python_chat"):
        for split in ("train", "held_out"):
            texts = [d["text"] for d in documents if (d["group"], d["split"]) == (group, split)]
            tokens = encode(tokenizer, texts)
            np.save(args.tokens / f"{split}_{group}.npy", tokens)
            num_bytes = sum(len(text.encode()) for text in texts)
            print(f"{split} {group}: {tokens.size} tokens, {num_bytes} bytes")


if __name__ == "__main__":
    main()
