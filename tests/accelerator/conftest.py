"""What stands in for a device: the files beside this one, which are no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    return load("stand_in")


@pytest.fixture(scope="session")
def host_memory() -> ModuleType:
    return load("host_memory")


@pytest.fixture(scope="session")
def fake_driver() -> ModuleType:
    return load("fake_driver")
