"""Kernels run on Triton's interpreter, on the CPU: a loop's turn takes milliseconds, so shapes are tiny.

bfloat16 is left out there: the interpreter computes with its raw bits. Devices judge it.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quire_kernels_triton.tuning import Target

# What the interpreter's own use of numpy warns of: scalars from arrays, and exp of large numbers.
INTERPRETER_WARNINGS = ("ignore:Conversion of an array:DeprecationWarning", "ignore::RuntimeWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in INTERPRETER_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture
def target() -> Target:
    """A GPU small enough that kernels are split as on a large one."""
    return Target("interpreter", 4)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)
