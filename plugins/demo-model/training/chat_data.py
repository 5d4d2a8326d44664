"""Questions and answers made from documentation, docstrings, FAQ and glossary, in chat form.

Every answer is text of the corpus itself, except for the small talk in small_talk.py.
"""

import ast
import random
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from clean import clean_inline, indent_of

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


class Item(NamedTuple):
    kind: str  # key of QUESTIONS
    name: str  # what is asked about
    answer: str


QUESTIONS = {
    "callable": (
        "What does {name} do?", "What does `{name}` do?", "what does {name} do", "Explain {name}.",
        "What is {name} for?", "Tell me about {name}.", "How does {name} work?", "What does {name}() do?",
        "What does the {name} function do?", "Describe {name} in a few words.", "Can you explain {name}?",
    ),
    "class": (
        "What is {name}?", "What is `{name}`?", "What is the {name} class?", "Explain {name}.", "Tell me about {name}.",
        "What is a {name} object?", "When would I use {name}?", "Describe the class {name}.", "what is {name}",
    ),
    "exception": ("When is {name} raised?", "What is {name}?", "Why do I get a {name}?", "What does {name} mean?"),
    "module": (
        "What is the {name} module?", "What is the {name} module for?", "What does the {name} module do?",
        "What is {name}?", "Tell me about the {name} module.", "Explain the Python module {name}.",
        "When should I use the {name} module?",
    ),
    "signature": (
        "How do I call {name}?", "What are the arguments of {name}?", "What is the signature of {name}?",
        "Which parameters does {name} take?", "Show me the signature of {name}.",
    ),
    "term": (
        "What is {name}?", "What is a {name}?", "What does {name} mean in Python?", "Define {name}.", "Explain {name}.",
        "What does the term {name} mean?",
    ),
    "faq": ("{name}",),
    "code": (
        "Show me the source of {name}.", "How is {name} implemented?", "Write {name} in Python.",
        "Show the code of {name}.",
    ),
    "write": (
        "Write a Python function: {name}", "Write a function for this: {name}", "How would I write this? {name}",
    ),
    "which": (
        "Which function does this? {name}", "What should I use for this? {name}", "How can I do this in Python? {name}",
    ),
}  # fmt: skip

DIRECTIVE = re.compile(
    r"^(?P<indent> *)\.\. (?:py:)?(?P<kind>function|class|method|classmethod|staticmethod|exception|coroutinemethod"
    r"|coroutinefunction|decorator|data|attribute)::\s*(?P<signature>.+)$"
)
MODULE = re.compile(r"^\.\. (?:py:)?(?:current)?module:: *(\S+)")
NUM_MAX_ANSWER_CHARS = 900


def paragraphs(block: list[str]) -> Iterator[str]:
    """Yield the prose paragraphs and code blocks of an indented block, cleaned, until it ends."""
    text = textwrap.dedent("\n".join(block))
    for part in re.split(r"\n\s*\n", text):
        if part.lstrip().startswith(".. "):
            return
        if part.strip():
            yield part.rstrip() if part.startswith(" ") else " ".join(part.split())


def answer_from(block: list[str], num_max_parts: int) -> str:
    """Join the first paragraphs of a block into an answer of bounded length."""
    parts: list[str] = []
    for part in paragraphs(block):
        if len(parts) == num_max_parts or sum(map(len, parts)) + len(part) > NUM_MAX_ANSWER_CHARS:
            break
        parts.append(part)
    answer = re.sub(r"::$", ":", clean_inline("\n\n".join(parts)), flags=re.MULTILINE)
    return re.sub(r"(?<![\w*])\*([A-Za-z_][\w, ]*)\*(?![\w*])", r"`\1`", answer).strip()


def body_below(lines: list[str], start: int, indent: int) -> list[str]:
    """Return the lines after `start` that are blank or deeper than `indent`, options left out."""
    block: list[str] = []
    for line in lines[start:]:
        if line.strip() and indent_of(line) <= indent:
            break
        if not re.match(r"\s*:\w[\w-]*:(\s|$)", line):
            block.append(line)
    return block


def qualified(signature: str, kind: str, module: str, owner: str) -> str:
    """Return the dotted name that a user would type for a documented object."""
    name = re.split(r"[(\s]", signature, maxsplit=1)[0]
    is_member = kind in {"method", "classmethod", "staticmethod", "coroutinemethod", "attribute"}
    if is_member and "." not in name and owner:
        return f"{owner}.{name}"
    has_prefix = is_member or not module or module == "builtins" or name.startswith(module.split(".")[0] + ".")
    return name if has_prefix else f"{module}.{name}"


def items_of_rst(text: str) -> Iterator[Item]:
    """Yield what the directives of one documentation page say about functions, classes and modules."""
    lines = text.expandtabs(8).splitlines()
    module = owner = ""
    for i, line in enumerate(lines):
        if match := MODULE.match(line):
            module = match.group(1)
            if "currentmodule" not in line and (answer := module_answer(lines, i)):
                yield Item("module", module, answer)
        elif match := DIRECTIVE.match(line):
            kind, signature = match["kind"], match["signature"].rstrip("\\ ")
            name = qualified(signature, kind, module, owner)
            owner = name.rsplit(".", 1)[-1] if kind == "class" else owner
            yield from items_of_directive(kind, name, signature, body_below(lines, i + 1, len(match["indent"])))


def module_answer(lines: list[str], start: int) -> str:
    """Return the first long paragraph at column 0 after a module directive."""
    for part in re.split(r"\n\s*\n", "\n".join(lines[start : start + 60])):
        flat = clean_inline(" ".join(part.split()))
        if part[:1].isalpha() and len(flat) > 60 and not flat.startswith(("Source code", "**")):
            return flat[:NUM_MAX_ANSWER_CHARS]
    return ""


def items_of_directive(kind: str, name: str, signature: str, block: list[str]) -> Iterator[Item]:
    answer = answer_from(block, num_max_parts=2)
    if len(answer) < 25 or not re.match(r"[\w.]+$", name):
        return
    if kind in {"class", "exception"}:
        yield Item(kind, name, answer)
        return
    yield Item("callable", name, answer)
    if "(" in signature and signature.endswith(")"):
        call = name + signature[signature.index("(") :]
        yield Item("signature", name, f"`{call}`\n\n{first_sentence(answer)}")


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:])\s", text.split("\n")[0], maxsplit=1)[0]


def items_of_faq(text: str) -> Iterator[Item]:
    """Yield the questions of a FAQ page: headings that end in a question mark."""
    lines = text.splitlines()
    heads = [i for i, line in enumerate(lines[:-1]) if line.endswith("?") and re.match(r"[-=~^]{4,}$", lines[i + 1])]
    for i in heads:
        stop = next((j - 1 for j in range(i + 3, len(lines)) if re.match(r"[-=~^]{4,}$", lines[j])), len(lines))
        answer = answer_from(lines[i + 2 : stop], num_max_parts=4)
        if len(answer) > 25:
            yield Item("faq", clean_inline(lines[i]), answer)


def items_of_glossary(text: str) -> Iterator[Item]:
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if indent_of(line) == 3 and line.strip() and not line.strip().startswith(("..", ":")):
            answer = answer_from(body_below(lines, i + 1, 3), num_max_parts=2)
            if len(answer) > 25:
                yield Item("term", line.strip().strip("`"), answer)


def items_of_python(text: str, module: str) -> Iterator[Item]:
    """Yield what the docstrings of one Python module say; nothing if it does not parse."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    lines = text.splitlines()
    if doc := ast.get_docstring(tree):
        yield from docstring_items("module", module, doc)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from items_of_class(node, module, lines)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from items_of_function(node, module, lines)


def items_of_class(node: ast.ClassDef, module: str, lines: list[str]) -> Iterator[Item]:
    if node.name.startswith("_"):
        return
    if doc := ast.get_docstring(node):
        yield from docstring_items("class", f"{module}.{node.name}", doc)
    for member in node.body:
        if isinstance(member, ast.FunctionDef):
            yield from items_of_function(member, node.name, lines)


def items_of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, lines: list[str]) -> Iterator[Item]:
    doc = ast.get_docstring(node)
    if node.name.startswith("_") or not doc:
        return
    name = f"{owner}.{node.name}"
    yield from docstring_items("callable", name, doc)
    code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    sentence = " ".join(doc.split("\n\n")[0].split())
    if 60 < len(code) < NUM_MAX_ANSWER_CHARS and 20 < len(sentence) < 160:
        yield Item("code", name, f"```python\n{code}\n```")
        yield Item("write", sentence, f"```python\n{code}\n```")
        yield Item("which", sentence, f"Use `{name}`.")


def docstring_items(kind: str, name: str, doc: str) -> Iterator[Item]:
    answer = answer_from(doc.splitlines(), num_max_parts=2)
    if len(answer) > 25:
        yield Item(kind, name, answer)


def turn(role: str, text: str) -> str:
    return f"{IM_START}{role}\n{text}{IM_END}\n"


def ask(item: Item, rng: random.Random) -> str:
    """Render one question and its answer."""
    question = rng.choice(QUESTIONS[item.kind]).format(name=item.name)
    return turn("user", question) + turn("assistant", item.answer)


def conversations(items: list[Item], num_rounds: int, rng: random.Random) -> Iterator[str]:
    """Yield conversations of one to three turns; every item is asked `num_rounds` times, in other words."""
    for _ in range(num_rounds):
        start = 0
        while start < len(items):
            num_turns = rng.choice((1, 1, 1, 2, 3))
            system = turn("system", "You are a helpful assistant.") if rng.random() < 0.15 else ""
            yield system + "".join(ask(item, rng) for item in items[start : start + num_turns])
            start += num_turns
