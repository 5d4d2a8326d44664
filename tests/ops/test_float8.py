"""A KV cache of float8_e4m3fn: the references, and who may ask for one."""

from __future__ import annotations

import pytest
import torch

from quire.errors import ConfigError
from quire.execution.memory import choose_dtype
from quire.ops import reference
from quire.ops.cases.float8 import float8_cases
from quire.ops.check import judge
from quire.ops.records import OPS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_the_reference_is_within_its_own_bounds(op, dtype):
    cases = list(float8_cases(op.name, dtype))
    assert bool(cases) == (op.name in ("kv_write", "qkv_rope_write", "paged_attention"))
    for case in cases:
        verdict = judge(op, case, op.reference)
        assert verdict.ok, str(verdict)


def test_what_is_too_large_becomes_the_largest_number():
    caches = [torch.zeros(1, 1, 2, 4).to(torch.float8_e4m3fn) for _ in range(2)]
    key = torch.tensor([[[1e4, -1e4, 449.0, 0.1]]])
    reference.kv_write(key, key, *caches, torch.tensor([1]))
    assert caches[0][0, 0, 1].float().tolist() == [448.0, -448.0, 448.0, pytest.approx(0.1, rel=0.07)]


def test_a_cache_that_the_backend_has_not_is_refused_by_name():
    with pytest.raises(ConfigError, match="kv_dtype 'float8_e4m3fn' is not supported here; supported: bfloat16"):
        choose_dtype("float8_e4m3fn", "bfloat16", ("bfloat16",), "kv_dtype")
