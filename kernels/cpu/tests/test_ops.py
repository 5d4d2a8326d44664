"""Every op and dtype against the records' cases, for each instruction set that this machine can run."""

from __future__ import annotations

import pytest

from quire.ops.check import judge_all
from quire.ops.records import OPS
from quire_kernels_cpu.registry import SERVED, SERVED_IN_FLOAT32

DTYPES = {op.name: ("float32",) if op.name in SERVED_IN_FLOAT32 else op.dtypes for op in OPS}
SERVED_OPS = [op for op in OPS if op.name in SERVED + SERVED_IN_FLOAT32]
CASES = [pytest.param(op, dtype, id=f"{op.name}-{dtype}") for op in SERVED_OPS for dtype in DTYPES[op.name]]


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_an_op_is_as_right_as_its_reference(kernels, op, dtype):
    wrong = [verdict for verdict in judge_all(op, getattr(kernels, op.name), dtype) if not verdict.ok]
    assert not wrong, "\n".join(map(str, wrong))
