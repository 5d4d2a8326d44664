"""The kernel table: who serves, why not the others, and what is refused."""

import subprocess
import sys

import pytest

from quire.backend.contract import Kernel, KernelRequest, WeightTransform
from quire.backend.reference import register_reference_kernels
from quire.errors import BackendError, KernelError
from quire.ops import reference
from quire.ops.records import OPS
from quire.ops.table import COMPOSED, KernelTable


def kernel(op="linear", provider="chip", priority=100, dtypes=("float32",), reasons=(), graph_safe=True):
    return Kernel(op, provider, lambda: provider, dtypes, lambda request: reasons, priority, graph_safe)


@pytest.fixture
def table():
    table = KernelTable(OPS)
    register_reference_kernels(table)
    return table


LINEAR = KernelRequest("linear", "float32", {"in_features": 7, "out_features": 5})
QKV = KernelRequest("qkv_rope_write", "float32", {"head_dim": 64})


def test_the_highest_priority_serves_and_the_others_are_not_asked(table):
    table.register(kernel())
    table.register(kernel(provider="extra", priority=200))
    resolution = table.resolve(LINEAR)
    assert (resolution.provider, resolution.passed_over) == ("extra", ())
    assert table.providers("linear") == ["extra", "chip", "reference"]


def test_a_kernel_that_cannot_serve_is_passed_over_with_its_reasons(table):
    table.register(kernel(provider="extra", priority=200, reasons=("in_features must be a multiple of 8",)))
    table.register(kernel(dtypes=("bfloat16",)))
    resolution = table.resolve(LINEAR)
    assert resolution.provider == "reference"
    assert [(item.provider, item.reasons) for item in resolution.passed_over] == [
        ("extra", ("in_features must be a multiple of 8",)),
        ("chip", ("serves bfloat16, not float32",)),
    ]


def test_the_reference_serves_every_op_in_every_dtype(table):
    for op in OPS:
        for dtype in ("float64", *op.dtypes):
            assert table.resolve(KernelRequest(op.name, dtype)).provider in ("reference", COMPOSED)


def test_nothing_that_serves_is_an_error_with_all_reasons():
    table = KernelTable(OPS)
    table.register(kernel(reasons=("wants a full moon",)))
    with pytest.raises(KernelError, match=r"no kernel serves linear in float32 .*chip: wants a full moon"):
        table.resolve(LINEAR)
    with pytest.raises(KernelError, match="none is registered"):
        table.resolve(KernelRequest("rope", "float32"))


def test_a_composite_is_made_of_bound_parts_before_the_reference_serves_it(table):
    table.register(kernel(op="rope", graph_safe=True))
    resolution = table.resolve(QKV)
    assert resolution.provider == COMPOSED
    parts = {item.request.op: item.provider for item in table.resolutions}
    assert parts == {
        "qkv_rope_write": COMPOSED,
        "rms_norm": "reference",
        "rope": "chip",
        "kv_write": "reference",
    }


def test_a_whole_kernel_is_better_than_a_composite(table):
    table.register(kernel(op="qkv_rope_write"))
    assert table.resolve(QKV).provider == "chip"


def test_a_composite_is_graph_safe_when_all_its_parts_are(table):
    assert not table.resolve(QKV).graph_safe  # the reference's kv_write reads slots on the host
    table.register(kernel(op="kv_write", graph_safe=True))
    assert table.resolve(QKV).graph_safe


def test_a_transform_goes_with_the_kernel_of_its_provider(table):
    transform = WeightTransform("linear", "chip", lambda weight, request: weight)
    table.register(kernel())
    table.register_transform(transform)
    assert table.resolve(LINEAR).transform is transform
    table.register(kernel(provider="extra", priority=200))
    assert table.resolve(LINEAR).transform is None


def test_every_answer_is_remembered(table):
    table.bind(LINEAR)
    assert [item.request for item in table.resolutions] == [LINEAR]


def test_bind_returns_the_kernel_itself(table):
    assert table.bind(LINEAR) is reference.linear


def test_a_second_kernel_of_one_provider_is_refused(table):
    table.register(kernel())
    with pytest.raises(BackendError, match="'chip' registered a kernel for 'linear' twice"):
        table.register(kernel(priority=5))


def test_an_op_that_does_not_exist_is_refused(table):
    with pytest.raises(BackendError, match=r"'chip' names op 'liner', which does not exist; ops are add_rms_norm"):
        table.register(kernel(op="liner"))
    with pytest.raises(BackendError, match="'liner'"):
        table.register_transform(WeightTransform("liner", "chip", lambda weight, request: weight))
    with pytest.raises(BackendError, match="a layer"):
        table.bind(KernelRequest("liner", "float32"))


def test_importing_the_table_and_the_spec_costs_no_torch():
    modules = "quire.ops.spec, quire.ops.table, quire.backend.reference_manifest"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
