"""The Python examples of the README and of the user guide run, with the demo model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs/user-guide.md")
EXAMPLES = {
    f"{page.name}-{number}": code
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
}
LINK = re.compile(r"\]\(([^)#:]+)\)")
READMES = [path.with_name("README.md") for pattern in ("*", "*/*") for path in ROOT.glob(f"{pattern}/pyproject.toml")]
LINKED = [ROOT / "README.md", *READMES, *ROOT.glob("docs/**/*.md")]
LINKS = sorted({(page, link) for page in LINKED for link in LINK.findall(page.read_text())})
HELP = [sys.executable, "-c", "from quire.cli import main; main()", "--help"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    done = subprocess.run([sys.executable, "-c", EXAMPLES[name]], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda item: str(item).removeprefix(str(ROOT)))
def test_a_link_leads_somewhere(page, link):
    assert (page.parent / link).exists()


def test_commands_named_in_the_documentation_exist():
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"^(?:\w+ \S+ \| )?quire (\w[\w-]*)", text, re.MULTILINE))
    help_text = subprocess.run(HELP, capture_output=True, text=True, check=True).stdout
    assert named
    assert {name for name in named if name not in help_text} == set()


def test_what_the_architecture_names_is_there():
    core, page = ROOT / "core/src/quire", (ROOT / "docs/architecture.md").read_text()
    source = "".join(path.read_text() for path in core.rglob("*.py"))
    path_of_a_request = page[: page.index("**Two planes.**")]
    files = re.findall(r"`([\w/]+\.py)`", path_of_a_request)
    assert len(files) > 20
    assert [name for name in files if not (core / name).exists()] == []
    names = re.findall(r"`(?:(\w+)\.)?(\w+)`", re.sub(r"`[\w/]+\.py`", "", path_of_a_request))
    defined = {match[1] for match in re.finditer(r"(?:class|def) (\w+)", source)}
    assert {part for name in names for part in name if part and part not in defined} <= {"n"}
