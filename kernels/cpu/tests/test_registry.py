"""What is offered to a table, and what is refused."""

from __future__ import annotations

import pytest

from quire.backend.contract import KernelRequest
from quire.errors import KernelError
from quire.ops.records import OPS
from quire.ops.table import KernelTable
from quire_kernels_cpu.registry import SERVED, SERVED_IN_FLOAT32, register


@pytest.fixture
def table(best_kernels):
    table = KernelTable(OPS)
    register(table, best_kernels, "some-cpu")
    return table


@pytest.mark.parametrize("op", SERVED + SERVED_IN_FLOAT32)
def test_every_kernel_serves_float32(table, op):
    assert table.resolve(KernelRequest(op, "float32")).provider == "some-cpu"


def test_a_wide_dtype_is_left_to_the_reference(table):
    with pytest.raises(KernelError, match="serves float32, bfloat16, float16, not float64"):
        table.resolve(KernelRequest("linear", "float64"))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"kv_dtype": "int8"}, "a KV cache of int8"), ({"head_dim": 1024}, "head_dim 1024 is over 512")],
)
@pytest.mark.parametrize("op", ["kv_write", "paged_attention", "qkv_rope_write"])
def test_a_cache_that_cannot_be_served_is_refused_with_the_reason(best_kernels, op, attributes, reason):
    offered = []

    class Collector:
        def register(self, kernel):
            offered.append(kernel)

    register(Collector(), best_kernels, "some-cpu")
    kernel = next(kernel for kernel in offered if kernel.op == op)
    (said,) = kernel.constraint(KernelRequest(op, "float32", attributes))
    assert reason in said
