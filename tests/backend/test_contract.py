"""The contract changes only on purpose."""

import runpy
from pathlib import Path

GOLDEN = runpy.run_path(str(Path(__file__).with_name("golden.py")))


def test_the_contract_is_the_golden_one():
    text, golden = GOLDEN["contract_text"](), GOLDEN["GOLDEN"].read_text()
    assert text == golden, "the plugin contract changed; if on purpose: python tests/backend/golden.py"
