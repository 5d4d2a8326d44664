"""Write down the plugin contract: every name, field, default, type and signature of it, without the prose.

`contract_golden.txt` is what plugins rely on. After a deliberate change of the contract (and, if it breaks plugins, of
`API_VERSION`), write it anew:

    python tests/backend/golden.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

BACKEND = Path(__file__).parents[2] / "core/src/quire/backend"
SOURCES = (BACKEND / "contract.py", BACKEND / "hookspecs.py")
GOLDEN = Path(__file__).with_name("contract_golden.txt")


def contract_text() -> str:
    """Return the contract as text, one line for each thing a plugin can see."""
    return "".join(f"== {path.name}\n{_lines(path)}\n" for path in SOURCES)


def _lines(path: Path) -> str:
    tree = ast.parse(path.read_text())
    return "".join(line + "\n" for node in tree.body for line in _describe(node, ""))


def _describe(node: ast.stmt, indent: str) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        yield from (f"{indent}@{ast.unparse(item)}" for item in node.decorator_list)
        yield f"{indent}class {node.name}({', '.join(map(ast.unparse, node.bases))})"
        for child in node.body:
            yield from _describe(child, indent + "    ")
    elif isinstance(node, ast.FunctionDef):
        yield from (f"{indent}@{ast.unparse(item)}" for item in node.decorator_list)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        yield f"{indent}def {node.name}({ast.unparse(node.args)}){returns}"
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield indent + ast.unparse(node)


if __name__ == "__main__":
    GOLDEN.write_text(contract_text())
    print(f"wrote {GOLDEN}")
