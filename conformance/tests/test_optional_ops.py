"""An op that a backend need not have is judged, and named, where it has a kernel of it."""

from types import SimpleNamespace

import pytest

from quire.backend.contract import Kernel
from quire.backend.reference import register_reference_kernels
from quire.ops.records import OPS
from quire.ops.table import KernelTable
from quire_conformance.levels import level3_ops
from quire_conformance.report import IN_PARTS, _providers

OPTIONAL = [op.name for op in OPS if op.optional]


@pytest.fixture
def target():
    table = KernelTable(OPS)
    register_reference_kernels(table)
    return SimpleNamespace(name="chip", table=table, caps=SimpleNamespace(dtypes=("float32", "bfloat16")))


def judged(target):
    ((_, parameters),) = level3_ops.parameters(target, "test")
    return {tuple(parameter.values) for parameter in parameters if parameter.values[0] in OPTIONAL}


def test_there_is_one():
    assert OPTIONAL == ["between_attentions"]


def test_without_a_kernel_it_is_not_judged(target):
    assert judged(target) == set()
    assert _providers(target)["between_attentions"] == {"float32": IN_PARTS, "bfloat16": IN_PARTS}


def test_with_one_it_is_judged_in_its_dtypes(target):
    def for_wide_heads(request):
        return () if request.attributes["head_dim"] >= 128 else ("heads are too narrow",)

    target.table.register(Kernel("between_attentions", "chip", print, ("bfloat16",), for_wide_heads))
    assert judged(target) == {("between_attentions", "bfloat16")}
    assert _providers(target)["between_attentions"] == {"float32": IN_PARTS, "bfloat16": f"{IN_PARTS}, chip"}
