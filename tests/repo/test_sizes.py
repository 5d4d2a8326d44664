"""Small functions and small files, as the house style asks."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for path in ROOT.glob("*/**/src/**/*.py"))
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_BACKEND_LINES = 600  # a vendor writes a backend in a few hundred lines, and so do we
LONG_FILES = {"core/src/quire/backend/contract.py"}  # the contract reads best in one piece


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    """Return a file's functions, but not device programs (decorated `jit`), which cannot be split as functions can."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]
    return [
        node
        for node in found
        if not any(ast.unparse(item).split("(")[0].endswith("jit") for item in node.decorator_list)
    ]


def code_lines(function: Function) -> int:
    """Return the lines of a function, its docstring not counted."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return lines - (first.end_lineno - first.lineno + 1 if has_docstring else 0)


def test_no_function_is_longer_than_sixty_lines():
    long = [
        f"{path.relative_to(ROOT)}: {function.name} has {code_lines(function)} lines"
        for path in SOURCES
        for function in functions(path)
        if code_lines(function) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_a_backend_is_its_chips_own_code_and_no_more():
    sources = {folder.name: list(folder.glob("src/**/*.py")) for folder in (ROOT / "backends").iterdir()}
    lines = {name: sum(len(path.read_text().splitlines()) for path in paths) for name, paths in sources.items()}
    assert len(lines) >= 7
    assert not {name: count for name, count in lines.items() if not 0 < count < MAX_BACKEND_LINES}


def test_no_file_is_longer_than_four_hundred_lines():
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > MAX_FILE_LINES and name not in LONG_FILES}
