"""The backend without a GPU: a stand-in for torch's device, and kernels on Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported
STAND_IN = Path(__file__).parents[3] / "tests/accelerator/stand_in.py"
# What the interpreter's own use of numpy warns of: scalars from arrays, and exp of large numbers.
INTERPRETER_WARNINGS = ("ignore:Conversion of an array:DeprecationWarning", "ignore::RuntimeWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in INTERPRETER_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    """A device type in the host's memory, as torch's module of one would be."""
    spec = importlib.util.spec_from_file_location("stand_in", STAND_IN)
    module = sys.modules.setdefault("stand_in", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module
