"""The plugin can be asked what it is where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import GraphLevel, Selection
from quire.backend.manager import open_to_plan
from quire.errors import BackendError, ConfigError
from quire.ops.records import OPS
from quire_rocm.manifest import SUPPORT
from quire_rocm.plugin import HIP, RocmBackend


class Processor:
    """As much of a device as is asked for before it is used."""

    torch_device = torch.device("cpu")


def test_it_can_be_planned_with_where_its_device_is_absent():
    backend = open_to_plan("rocm")
    assert backend.caps.device_type == "cuda", "torch's name of AMD GPUs"
    assert backend.caps.graphs is GraphLevel.STEP
    assert backend.profile.support == SUPPORT


def test_triton_serves_what_it_serves_elsewhere():
    table = open_to_plan("rocm").create_table(OPS)
    assert {op.name for op in OPS if "triton" in table.providers(op.name)} >= {"paged_attention", "linear", "sample"}


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="the rocm backend has no option 'speed'"):
        RocmBackend().quire_describe(Selection("rocm", options={"speed": "high"}))


def test_a_gpu_that_is_not_visible_is_refused_with_their_number():
    with pytest.raises(BackendError, match=r"GPU 64 was asked for, and \d+ are visible"):
        RocmBackend().quire_open_device(Selection("rocm"), 64)


def test_several_ranks_without_a_process_group_are_refused():
    with pytest.raises(BackendError, match="call init_process_group"):
        RocmBackend().quire_create_communicator([0, 1], Processor())


def test_one_rank_needs_no_collectives():
    assert RocmBackend().quire_create_communicator([0], Processor()) is None


def test_without_graphs_steps_run_as_they_are_and_it_says_so():
    backend = RocmBackend(HIP._replace(graphs=None))
    assert backend.quire_create_program_builder(Processor()) is None
    assert backend.quire_describe(Selection("rocm")).graphs is GraphLevel.NONE
