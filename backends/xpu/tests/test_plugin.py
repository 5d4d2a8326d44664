"""The hooks, where there is no GPU: what can be asked without one, and the rest on a stand-in for torch's device."""

from __future__ import annotations

import sys

import pytest
import torch

from quire.backend.accelerator.graphs import GraphProgramBuilder
from quire.backend.contract import Bucket, Device, GraphLevel, Selection, ShapeMode
from quire.backend.manager import open_to_plan
from quire.errors import BackendError, ConfigError
from quire.ops.records import OPS
from quire_kernels_triton.gpu_backend import Platform
from quire_xpu.manifest import SUPPORT
from quire_xpu.plugin import EXTENSION, XpuBackend, find_platform

XPU = Selection("xpu")


@pytest.fixture
def backend(stand_in) -> XpuBackend:
    return XpuBackend(Platform("cpu", stand_in.RUNTIME, stand_in.GRAPHS, collectives=None, pin_memory=False))


def test_it_can_be_planned_with_where_its_device_is_absent():
    backend = open_to_plan("xpu")
    assert backend.caps.device_type == "xpu"
    assert backend.profile.support == SUPPORT
    table = backend.create_table(OPS)
    assert {op.name for op in OPS if "triton" in table.providers(op.name)} >= {"paged_attention", "linear", "sample"}


def test_a_torch_without_graphs_runs_steps_as_they_are_and_says_why():
    backend = XpuBackend(find_platform()._replace(graphs=None))
    caps = backend.quire_describe(XPU)
    assert (caps.graphs, caps.shapes) == (GraphLevel.NONE, ShapeMode.DYNAMIC)
    assert "has no torch.xpu.XPUGraph" in backend.quire_collect_env()["graphs"]
    assert "without XCCL" in XpuBackend(find_platform()._replace(collectives=None)).quire_collect_env()["collectives"]


def test_a_torch_with_graphs_captures_steps(backend):
    assert backend.quire_describe(XPU).graphs is GraphLevel.STEP
    device = backend.quire_open_device(XPU, 0)
    builder = backend.quire_create_program_builder(device)
    assert isinstance(builder, GraphProgramBuilder)
    program, inputs = builder.build(lambda buffers: buffers[0] * 2, Bucket(1, 1, True), None), torch.ones(2)
    for value in (1.0, 2.0, 3.0):
        assert program((inputs.fill_(value),)).tolist() == [2 * value] * 2


def test_the_device_that_it_opens_keeps_the_contract(backend, stand_in):
    device = backend.quire_open_device(XPU, 1)
    assert isinstance(device, Device)
    assert device.name == f"{stand_in.NAME}1"


def test_a_gpu_that_is_not_visible_is_refused_with_their_number():
    with pytest.raises(BackendError, match=r"GPU 64 was asked for, and \d+ are visible"):
        XpuBackend().quire_open_device(XPU, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"speed": "high"}, "no option 'speed'; its options are ipex: on"), ({"ipex": "yes"}, "it must be off or on")],
)
def test_a_wrong_option_is_refused_with_what_is_supported(backend, options, message):
    with pytest.raises(ConfigError, match=message):
        backend.quire_describe(Selection("xpu", options=options))


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Install an extension that does what it is given."""

    def install(code: str) -> None:
        (tmp_path / f"{EXTENSION}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, EXTENSION, raising=False)

    yield install
    sys.modules.pop(EXTENSION, None)


def test_intels_extension_is_imported_only_when_it_is_asked_for(backend, extension):
    extension("")
    backend.quire_open_device(XPU, 0)
    assert EXTENSION not in sys.modules
    backend.quire_open_device(Selection("xpu", options={"ipex": "on"}), 0)
    assert EXTENSION in sys.modules


@pytest.mark.parametrize("failure", ["import os; os.exit(127)", "raise SystemExit(127)", "raise ImportError('no')"])
def test_an_extension_for_another_torch_is_refused_with_a_way_out(backend, extension, failure):
    extension(failure)
    with pytest.raises(BackendError, match=r"cannot be imported with torch .*leave ipex off"):
        backend.quire_open_device(Selection("xpu", options={"ipex": "on"}), 0)
