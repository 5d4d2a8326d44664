"""Addresses outlive their bytes, on drivers that give released memory back and on those that keep it a while."""

from __future__ import annotations

import pytest
import torch

from quire.backend.accelerator.mapped_memory import Driver, MappedMemory
from quire.errors import BackendError, CapacityError

LIMIT = 1 << 20


def explain(library, code):
    return f"error {code}"


@pytest.fixture(params=[False, True], ids=["gives back", "keeps released"])
def library(request, fake_driver):
    return fake_driver.FakeDriver("sil", LIMIT, keeps_released=request.param)


@pytest.fixture
def memory(library, stand_in) -> MappedMemory:
    driver = Driver(library, "sil", explain, "__array_interface__", keeps_released=library._keeps_released)
    return MappedMemory(torch.device("cpu", 0), stand_in.RUNTIME, driver)


def test_it_asks_for_the_granularity(memory, fake_driver):
    assert memory.granularity == fake_driver.GRANULARITY


def test_bytes_go_and_come_and_the_addresses_stay(memory, library):
    address = memory.reserve(LIMIT)
    for _ in range(3):
        handle = memory.map(address, LIMIT)
        assert (library.free_bytes, list(library.mapped)) == (0, [address])
        memory.unmap(address, LIMIT, handle)
        assert (library.free_bytes, list(library.reserved)) == (LIMIT, [address])
    memory.free(address, LIMIT)
    assert not library.reserved


def test_a_full_device_is_refused(memory):
    memory.map(memory.reserve(LIMIT), LIMIT)
    with pytest.raises(CapacityError, match="silMemCreate: the device is out of memory"):
        memory.map(memory.reserve(LIMIT), LIMIT)


def test_what_a_driver_refuses_is_said_with_its_reason(memory):
    with pytest.raises(BackendError, match=r"silMemAddressFree failed with 1 \(error 1\)"):
        memory.free(12345, LIMIT)


def test_addresses_that_somebody_else_took_meanwhile_are_an_error(stand_in, fake_driver):
    library = fake_driver.FakeDriver("sil", LIMIT, keeps_released=True)
    driver = Driver(library, "sil", explain, "__array_interface__", keeps_released=True)
    memory = MappedMemory(torch.device("cpu", 0), stand_in.RUNTIME, driver)
    address = memory.reserve(LIMIT)
    handle = memory.map(address, LIMIT)
    library.crowded = True
    with pytest.raises(BackendError, match="addresses of a sleeping region were taken by others"):
        memory.unmap(address, LIMIT, handle)
    assert not library.reserved
