"""The records hold together: names, attributes, cases, and the references on every case."""

import re

import pytest
import torch

from quire.ops import spec
from quire.ops.check import judge_all
from quire.ops.records import AXES, OPS

BY_DTYPE = [pytest.param(op, dtype, id=f"{op.name}-{dtype}") for op in OPS for dtype in op.dtypes]


def test_every_op_of_the_spec_has_a_record():
    stated = re.findall(r"``(\w+)\(", spec.__doc__.split("What every kernel")[0])
    stated += re.findall(r"``(gelu_tanh_and_mul)``", spec.__doc__)
    assert {op.name for op in OPS} == set(stated) - {"ceil", "silu", "tanh"}


def test_names_are_unique():
    assert len({op.name for op in OPS}) == len(OPS)


@pytest.mark.parametrize(("op", "dtype"), BY_DTYPE)
def test_the_reference_is_within_its_own_bounds_on_every_case(op, dtype):
    verdicts = list(judge_all(op, op.reference, dtype))
    assert verdicts
    assert [str(verdict) for verdict in verdicts if not verdict.ok] == []


@pytest.mark.parametrize(("op", "dtype"), BY_DTYPE)
def test_cases_are_seeded(op, dtype):
    first, again, other = (list(op.cases(dtype, seed)) for seed in (3, 3, 4))
    assert [case.label for case in first] == [case.label for case in other]
    assert all(same(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert not all(same(a.inputs, b.inputs) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("op", "dtype"), BY_DTYPE)
def test_cases_are_labelled_and_ask_only_what_a_request_may(op, dtype):
    cases = list(op.cases(dtype, 0))
    assert len({case.label for case in cases}) == len(cases)
    for case in cases:
        assert (case.request.op, case.request.dtype) == (op.name, dtype)
        assert case.request.attributes.keys() <= set(op.attributes)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_arguments_that_a_record_names_exist(op):
    case = next(op.cases(op.dtypes[0], 0))
    assert {*op.mutates, *op.scratch} <= case.inputs.keys()
    assert not {*op.mutates} & {*op.scratch}
    assert op.axes.items() <= AXES.items()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_attention_cases_cover_what_a_kernel_may_get_wrong(op, dtype):
    requests = [case.request.attributes for case in op("paged_attention").cases(dtype, 0)]
    assert {request["head_dim"] for request in requests} >= {16, 64, 80, 128, 256}
    assert {request["num_heads"] // request["num_kv_heads"] for request in requests} >= {1, 4, 7}
    assert {request["block_size"] for request in requests} >= {1, 16, 32}
    assert {request["window"] for request in requests} >= {None, 1, 7, 100}
    assert any(request["soft_cap"] for request in requests)
    assert any(request["sinks"] for request in requests)
    assert any(request["kv_dtype"] != dtype for request in requests)


def test_attention_cases_lay_traps(op):
    """What no row owns is NaN, and block ids past a row's length exist in no cache."""
    for case in op("paged_attention").cases("float32", 0):
        batch, key_cache = case.inputs["batch"], case.inputs["key_cache"]
        owned = sum(batch.seq_lens.tolist())
        assert key_cache[:, 0, :, 0].isfinite().sum() == owned
        assert (batch.block_table >= len(key_cache)).any()


def same(first, second) -> bool:
    return all(
        torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(flat(first), flat(second), strict=True)
    )


def flat(inputs):
    for value in inputs.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, spec.AttentionBatch):
            yield from (item for item in value if isinstance(item, torch.Tensor))
