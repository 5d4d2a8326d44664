"""The plugin can be asked what it is where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import GraphLevel, Selection
from quire.backend.manager import open_to_plan
from quire.errors import BackendError, ConfigError
from quire.ops.records import OPS
from quire_rocm.driver import find_library
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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"speed": "high"}, "no option 'speed'; its options are memory: mapped"), ({"memory": "huge"}, "torch or mapped")],
)
def test_a_wrong_option_is_refused_with_what_is_supported(options, message):
    with pytest.raises(ConfigError, match=message):
        RocmBackend().quire_describe(Selection("rocm", options=options))


def test_regions_can_sleep_only_where_memory_is_mapped():
    backend = RocmBackend()
    assert "sleep" in backend.quire_describe(Selection("rocm", options={"memory": "mapped"})).features
    assert "sleep" not in backend.quire_describe(Selection("rocm")).features
    assert backend.quire_create_allocator(Processor()) is None, "the core's default, on torch's own allocator"


def test_mapping_memory_without_amds_torch_is_refused():
    backend = RocmBackend()
    backend.quire_describe(Selection("rocm", options={"memory": "mapped"}))
    with pytest.raises(BackendError, match="libamdhip64, which torch has not loaded"):
        backend.quire_create_allocator(Processor())


def test_the_library_that_torch_has_loaded_is_found_by_what_is_mapped(tmp_path):
    maps = tmp_path / "maps"
    line = "7f00-7f01 r-xp 00000000 08:01 42  /site/torch/lib/lib{}.so{}\n"
    maps.write_text(line.format("torch_cpu", "") + line.format("amdhip64", ".7") + "7f02-7f03 rw-p 00000000 00:00 0\n")
    assert find_library("libamdhip64", maps) == "/site/torch/lib/libamdhip64.so.7"


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
