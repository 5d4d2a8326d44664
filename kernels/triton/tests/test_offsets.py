"""Offsets past 2^31 elements: every stride of a large tensor is multiplied in 64 bits.

The tensors are views of gigabytes of address space of which only the elements that are used take memory.
"""

from __future__ import annotations

import pytest
import torch

from quire.ops import reference
from quire.ops.cases.attention import AttentionShape, Row, attention_case
from quire.ops.cases.source import Source
from quire_kernels_triton import activations, cache, embedding, norms, rotary, step
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.sampling import Sample

PAST = 1 << 31
DTYPE = torch.float16


def spread(tensor, axis):
    """Copy a tensor into memory where the entries of one axis lie so far apart that the last is past 2^31 elements."""
    others = torch.empty([1 if at == axis else size for at, size in enumerate(tensor.shape)], device="meta")
    far = -(-PAST // (tensor.shape[axis] - 1)) // 64 * 64 + 64
    strides = [far if at == axis else stride for at, stride in enumerate(others.stride())]
    space = torch.empty(far * (tensor.shape[axis] - 1) + others.numel(), dtype=tensor.dtype)
    view = space.as_strided(tensor.shape, strides)
    view.copy_(tensor)
    return view


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DTYPE)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rows", [(Row(1, 20), Row(1, 33)), (Row(3, 20), Row(1, 33))], ids=["decode", "mixed"])
@pytest.mark.parametrize(("name", "axis"), [("key_cache", 0), ("value_cache", 1), ("key_cache", 2), ("query", 1)])
def test_attention_reads_what_lies_far_apart(target, rows, name, axis):
    shape = AttentionShape(rows, 6, 3, 16)
    inputs = attention_case("", shape, "float16", Source("float16", 1)).inputs
    expected = reference.paged_attention(**inputs)
    inputs[name] = spread(inputs[name], axis)
    close(PagedAttention(target)(**inputs), expected)


def test_attention_reads_tokens_and_block_tables_that_lie_far_apart(target):
    inputs = attention_case("", AttentionShape((Row(2, 9), Row(1, 5), Row(1, 20)), 2, 1, 16), "float16",
                            Source("float16", 1)).inputs  # fmt: skip
    expected = reference.paged_attention(**inputs)
    table = spread(inputs["batch"].block_table, 0)
    inputs |= {"query": spread(inputs["query"], 0), "batch": inputs["batch"]._replace(block_table=table)}
    close(PagedAttention(target)(**inputs), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_cache_is_written_and_copied_wherever_its_blocks_heads_and_slots_lie(axis):
    key, value, slots = normal(3, 3, 16), normal(3, 3, 16) + 1, torch.tensor([11, 0, 6])
    caches = [torch.zeros(4, 3, 4, 16, dtype=DTYPE) for _ in range(2)]
    far = [spread(tensor, axis) for tensor in caches]
    pairs = torch.tensor([[2, 3]])
    for write, copy, held in (
        (reference.kv_write, reference.block_copy, caches),
        (cache.kv_write, cache.block_copy, far),
    ):
        write(key, value, *held, slots)
        copy(*held, pairs)
    assert all(torch.equal(*both) for both in zip(caches, far, strict=True))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotated_keys_are_written_wherever_the_cache_lies(axis):
    qkv, positions, table = normal(3, (2 + 6) * 16), torch.tensor([0, 5, 2]), torch.randn(8, 16)
    caches = [torch.zeros(4, 3, 4, 16, dtype=DTYPE) for _ in range(2)]
    far = [spread(tensor, axis) for tensor in caches]
    slots = torch.tensor([11, 0, 6])
    expected = reference.qkv_rope_write(qkv.clone(), positions, table, None, None, 1e-6, *caches, slots)
    query = rotary.qkv_rope_write(spread(qkv, 0), positions, table, None, None, 1e-6, *far, slots)
    close(query, expected)
    for one, other in zip(caches, far, strict=True):
        close(other, one)


@pytest.mark.parametrize("axis", [0, 1])
def test_heads_are_normed_and_rotated_wherever_they_lie(axis):
    x, gain, table = normal(3, 3, 16), normal(16), torch.randn(8, 16)
    positions = torch.tensor([0, 5, 2])
    close(norms.rms_norm(spread(x, axis), gain, 1e-6), reference.rms_norm(x, gain, 1e-6))
    rotated = rotary.rope(spread(x, axis), spread(x, axis), positions, table)
    for found, expected in zip(rotated, reference.rope(x, x, positions, table), strict=True):
        close(found, expected)


def test_rows_of_wide_matrices_are_found(target):
    x = normal(3, 32)
    far = spread(x, 0)
    index = torch.tensor([2, 0], dtype=torch.int32)
    close(activations.gated("silu_and_mul")(far), reference.silu_and_mul(x))
    close(embedding.embedding(index.long(), far), x[[2, 0]])
    close(step.select_rows(far, index)[0], x[[2, 0]])
    close(norms.add_rms_norm(x, far, x[0], 1e-6)[0], reference.add_rms_norm(x, x, x[0], 1e-6)[0])


def test_the_sampler_finds_every_rows_logits_and_seat(target):
    logits, tokens = torch.randn(3, 67), torch.zeros(3, 8, dtype=torch.int32)
    columns = [torch.tensor(column) for column in ([0.0, 0.9, 0.9], [0, 0, 5], [1.0] * 3, [0.0] * 3, [1, 2, 3])]
    columns[1] = columns[1].int()
    rows, positions = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 2, 3], dtype=torch.int32)
    expected = reference.draw_tokens(logits, *columns, rows, positions, tokens)
    far = spread(torch.zeros_like(tokens), 0)
    found = Sample(target).draw_tokens(spread(logits, 0), *columns, rows, positions, far)
    assert torch.equal(found, expected)
    assert torch.equal(far, tokens)
