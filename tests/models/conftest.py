"""Checkpoints, each written once for the run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from .checkpoints import NATIVE, write_checkpoint
from .harness import Runner


class Written(NamedTuple):
    """A folder, and transformers' model of it."""

    path: Path
    model: PreTrainedModel

    def runner(self, num_rows: int = 1, **settings: Any) -> Runner:
        return Runner(self.path, num_rows, **settings)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring at these sizes: 74 s against 16 (2 cores of a Zen 4, 2026-11)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """Write a checkpoint; the same one is written once."""
    written: dict[str, Written] = {}

    def make(family: str, settings: dict[str, Any]) -> Written:
        key = f"{family} {sorted(settings.items())}"
        if key not in written:
            folder = tmp_path_factory.mktemp(family)
            written[key] = Written(folder, write_checkpoint(folder, family, settings))
        return written[key]

    return make


@pytest.fixture(params=sorted(NATIVE))
def native(request: pytest.FixtureRequest, write: Callable[..., Written]) -> Written:
    """Every native architecture, with its variations."""
    return write(*NATIVE[request.param])
