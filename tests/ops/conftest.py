"""Seeded tensors for the tests of the ops."""

from collections.abc import Callable, Iterator

import pytest
import torch

from quire.ops.cases.source import Source
from quire.ops.records import OPS
from quire.ops.spec import Op


@pytest.fixture
def source() -> Source:
    return Source("float32", seed=1)


@pytest.fixture
def op() -> Callable[[str], Op]:
    """The record of a name."""
    records = {record.name: record for record in OPS}
    return records.__getitem__


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: on a busy machine a second thread makes them 100 times slower, waiting for its turn."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
