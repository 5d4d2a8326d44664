"""Every kernel against its record: all cases in float32, and in float16 where the kernel computes differently."""

from __future__ import annotations

import pytest
import torch

from quire.backend.contract import KernelRequest
from quire.ops.cases.float8 import float8_cases
from quire.ops.check import judge
from quire.ops.records import OPS
from quire.ops.table import KernelTable
from quire_kernels_triton.registry import register_kernels
from quire_kernels_triton.tuning import Target

# Slow on the interpreter, and alike in both dtypes but for the products: in float16, these alone.
FLOAT16 = {
    "paged_attention": {"one token", "decode, groups of 4", "chunk", "mixed, padding tokens", "float32 cache"},
    "sample": set(),
    "draw_tokens": {"R=5 V=1000", "ties", "narrow filters"},
}
UNSERVED = {"between_attentions"}  # optional


def cases(dtype):
    for op in OPS:
        if op.name in UNSERVED or dtype not in op.dtypes:
            continue
        for case in op.cases(dtype, 0):
            left_out = dtype == "float16" and case.label not in FLOAT16.get(op.name, {case.label})
            if left_out or case.request.attributes.get("kv_dtype") == "bfloat16":
                continue
            yield pytest.param(op, case, id=f"{op.name}-{dtype}-{case.label}")


@pytest.fixture(scope="module")
def table():
    table = KernelTable(OPS)
    register_kernels(table, target=Target("interpreter", 4))
    return table


@pytest.mark.parametrize(("op", "case"), [*cases("float32"), *cases("float16")])
def test_it_is_as_right_as_the_reference(table, op, case):
    kernel = table.bind(KernelRequest(op.name, case.request.dtype, case.request.attributes))
    verdict = judge(op, case, kernel)
    assert verdict.ok, str(verdict)


def test_a_cache_of_float8_is_read_as_the_reference_does(table):
    for case in float8_cases("paged_attention", "float32"):
        verdict = judge(table.ops["paged_attention"], case, table.bind(case.request))
        assert verdict.ok, str(verdict)


def test_a_cache_of_float8_is_written_as_the_reference_does(table):
    """Numbers that the interpreter need not round, which it does wrongly, and larger ones."""
    (case,) = float8_cases("kv_write", "float32")
    for name in ("key", "value"):
        exact = case.inputs[name].to(torch.float8_e4m3fn).float()
        case.inputs[name] = torch.where(exact.abs() > 400, 3 * exact, exact)
    verdict = judge(table.ops["kv_write"], case, table.bind(case.request))
    assert verdict.ok, str(verdict)


def test_a_cache_of_float8_is_left_to_gpus_that_have_it():
    table = KernelTable(OPS)
    register_kernels(table, target=Target("sm_80", 108))
    (case,) = float8_cases("kv_write", "bfloat16")
    assert not table.serves(case.request)


def test_every_op_is_served_but_those_that_are_known_not_to_be(table):
    assert {op.name for op in OPS if not table.providers(op.name)} == UNSERVED
