"""Build the corpus: read the sources in a fixed order, clean, drop duplicates, hold out, make chats.

    python prepare_data.py SOURCES_ROOT DATA_DIR

writes DATA_DIR/documents.jsonl (group, source, path, split, text) and DATA_DIR/recipe.json (bytes by source).
One file in fifty is held out, by the hash of its path, so that the choice does not depend on the other files.
"""

import argparse
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import chat_data
from clean import clean_python, clean_rst
from small_talk import ANSWERS
from sources import EXCLUDED_PARTS, SOURCES, Source

SEED = 20261122
NUM_MIN_CHARS, NUM_MAX_CHARS = 200, 400_000
NUM_SMALL_TALK_ROUNDS = 30


class Document(NamedTuple):
    group: str  # "python", "more" or "chat"
    source: str
    path: str
    split: str  # "train" or "held_out"
    text: str


def split_of(path: str) -> str:
    """Hold out one path in fifty."""
    return "held_out" if int(hashlib.sha256(path.encode()).hexdigest(), 16) % 50 == 0 else "train"


def files_of(source: Source, root: Path) -> list[Path]:
    """List the files of one source, sorted, without the excluded ones."""
    found = {path for pattern in source.globs for path in (root / source.package).glob(pattern)}
    return sorted(
        path
        for path in found
        if path.is_file() and not path.is_symlink() and not any(part in str(path) for part in EXCLUDED_PARTS)
    )


def read_raw(root: Path) -> Iterator[tuple[Source, str, str]]:
    """Yield (source, path below root, raw text) of every file that is worth reading, duplicates left out."""
    seen: set[str] = set()
    for source in SOURCES:
        for path in files_of(source, root):
            text = path.read_text(encoding="utf-8", errors="ignore")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if NUM_MIN_CHARS <= len(text) <= NUM_MAX_CHARS and digest not in seen:
                seen.add(digest)
                yield source, str(path.relative_to(root)), text


def items_of(path: str, raw: str) -> list[chat_data.Item]:
    """Return the questions that one file answers."""
    if path.endswith(".py"):
        return list(chat_data.items_of_python(raw, module_name(path)))
    items = list(chat_data.items_of_rst(raw))
    if "/faq/" in path:
        items += chat_data.items_of_faq(raw)
    if path.endswith("python3.11/html/_sources/glossary.rst.txt"):
        items += chat_data.items_of_glossary(raw)
    return items


def module_name(path: str) -> str:
    """Return the importable name of a Python file below a package's unpacked root."""
    tail = path.split("/python3.11/")[-1].split("/dist-packages/")[-1].split("-4.2.16/")[-1]
    return tail.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def chat_documents(source: Source, path: str, items: list[chat_data.Item], rng: random.Random) -> Iterator[Document]:
    is_reference = source.package == "python3.11-doc"
    num_rounds = 4 if is_reference else 2 if source.group == "python" else 1
    for text in chat_data.conversations(items, num_rounds, rng):
        yield Document("chat", source.package, path, split_of(path), text)


def small_talk(rng: random.Random) -> Iterator[Document]:
    pairs = [(question, answer) for answer, questions in ANSWERS.items() for question in questions]
    for _ in range(NUM_SMALL_TALK_ROUNDS):
        for question, answer in pairs:
            system = chat_data.turn("system", "You are a helpful assistant.") if rng.random() < 0.15 else ""
            text = system + chat_data.turn("user", question) + chat_data.turn("assistant", answer)
            yield Document("chat", "small_talk.py", "small_talk.py", "train", text)


def build(root: Path) -> list[Document]:
    """Return all documents, shuffled."""
    rng = random.Random(SEED)
    documents: list[Document] = []
    for source, path, raw in read_raw(root):
        text = clean_python(raw) if path.endswith(".py") else clean_rst(raw)
        documents.append(Document(source.group, source.package, path, split_of(path), text))
        documents.extend(chat_documents(source, path, items_of(path, raw), rng))
    documents.extend(small_talk(rng))
    rng.shuffle(documents)
    return documents


def recipe(documents: list[Document]) -> dict[str, dict[str, int]]:
    """Count documents and bytes by group, source and split."""
    num_documents: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for document in documents:
        key = f"{document.group} {document.source} {document.split}"
        num_documents[key] += 1
        num_bytes[key] += len(document.text.encode())
    return {key: {"num_documents": num_documents[key], "num_bytes": num_bytes[key]} for key in sorted(num_bytes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder filled by fetch_sources.py")
    parser.add_argument("out", type=Path, help="folder to write to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    documents = build(args.root)
    with (args.out / "documents.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(document._asdict(), ensure_ascii=False) + "\n" for document in documents)
    (args.out / "recipe.json").write_text(json.dumps(recipe(documents), indent=1) + "\n")


if __name__ == "__main__":
    main()
