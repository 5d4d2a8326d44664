"""The plugin can be asked what it is where there is no GPU."""

from __future__ import annotations

import pytest

from quire.backend import hooks, hookspecs
from quire.backend.contract import BackendCaps, Selection
from quire.backend.manager import open_to_plan
from quire.errors import BackendError, ConfigError


@pytest.fixture(scope="module")
def relay():
    return hooks.relay("cuda", "quire_cuda.plugin:CudaBackend", hookspecs.REQUIRED_HOOKS)


def test_it_is_described_without_a_gpu(relay):
    caps = relay.quire_describe(selection=Selection("cuda"))
    assert isinstance(caps, BackendCaps)
    assert caps.dtypes[0] == "bfloat16"


@pytest.mark.parametrize("options", [{"speed": "high"}, {"dependent_launch": "maybe"}], ids=str)
def test_an_option_that_does_not_exist_is_refused(relay, options):
    with pytest.raises(ConfigError, match="dependent_launch"):
        relay.quire_describe(selection=Selection("cuda", options=options))


def test_it_can_be_planned_with_where_its_device_is_absent():
    assert open_to_plan("cuda").caps.device_type == "cuda"


def test_a_gpu_that_is_not_visible_is_refused_with_their_number(relay):
    with pytest.raises(BackendError, match=r"GPU 64 was asked for, and \d+ are visible"):
        relay.quire_open_device(selection=Selection("cuda"), rank=64)
