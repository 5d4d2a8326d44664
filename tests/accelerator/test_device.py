"""A device of torch's: copies in order, figures of its memory, and a refusal of what is not there."""

from __future__ import annotations

import pytest
import torch

from quire.backend.accelerator.device import AcceleratorDevice
from quire.backend.contract import Device, MemoryInfo
from quire.errors import BackendError


@pytest.fixture
def device(stand_in) -> AcceleratorDevice:
    return AcceleratorDevice(torch.device("cpu", 0), stand_in.RUNTIME, pin_memory=False)


def test_it_keeps_the_contract(device):
    assert isinstance(device, Device)
    device.synchronize()


def test_it_says_what_torch_says_of_it(device, stand_in):
    assert device.name == "Stand-in 10"
    assert device.memory_info() == MemoryInfo(*stand_in.MEMORY)


def test_what_goes_to_the_device_comes_back(device):
    buffer = device.host_buffer((2, 3), torch.int32)
    buffer.copy_(torch.arange(6).view(2, 3))
    target = torch.empty(2, 3, dtype=torch.int32)
    device.to_device(buffer, target)
    read = device.to_host(target)
    target.zero_()
    assert torch.equal(read.wait(), buffer)


def test_a_device_that_is_not_visible_is_refused_with_their_number(stand_in):
    with pytest.raises(BackendError, match="GPU 2 was asked for, and 2 are visible"):
        AcceleratorDevice(torch.device("cpu", 2), stand_in.RUNTIME)


@pytest.mark.parametrize("module", [torch.cuda, torch.xpu], ids=["cuda", "xpu"])
def test_the_stand_in_offers_nothing_that_torchs_own_modules_do_not(stand_in, module):
    assert not [name for name in vars(stand_in.RUNTIME) if not hasattr(module, name)]
