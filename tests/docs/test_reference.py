"""The reference pages are what the code says."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = runpy.run_path(str(DOCS / "generate.py"))
PAGES = GENERATED["pages"]()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name):
    written = (DOCS / "reference" / name).read_text()
    assert written == PAGES[name], "the code changed: python docs/generate.py"


def test_nothing_else_is_among_the_generated_pages():
    assert {path.name for path in (DOCS / "reference").iterdir()} == set(PAGES)
