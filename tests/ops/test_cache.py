"""Writing and copying KV blocks, and the fused projection."""

import pytest
import torch

from quire.backend.contract import BLOCK_FIRST, HEAD_MAJOR, SLOT_MAJOR, KernelRequest
from quire.ops import reference
from quire.ops.cases.cache import CacheShape, empty_caches
from quire.ops.cases.norms import rotary_table

LAYOUTS = [HEAD_MAJOR, SLOT_MAJOR, BLOCK_FIRST]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "float16"])
def test_kv_write_puts_each_token_at_its_slot_and_nothing_else(source, layout, kv_dtype):
    shape = CacheShape(3, 2, 16, 80, kv_dtype, layout)
    key_cache, value_cache = empty_caches(shape, "float32")
    key, value = source.normal(4, 2, 80), source.normal(4, 2, 80)
    reference.kv_write(key, value, key_cache, value_cache, torch.tensor([47, -1, 0, 17]))
    for cache, tokens in ((key_cache, key), (value_cache, value)):
        for token, (block, offset) in ((0, (2, 15)), (2, (0, 0)), (3, (1, 1))):
            assert torch.equal(cache[block, :, offset], tokens[token].to(cache.dtype))
        assert cache.isfinite().sum() == 3 * 2 * 80


def test_kv_write_of_padding_only_writes_nothing(source):
    caches = empty_caches(CacheShape(2, 1, 16, 16), "float32")
    reference.kv_write(source.normal(3, 1, 16), source.normal(3, 1, 16), *caches, torch.tensor([-1, -16, -2]))
    assert all(cache.isnan().all() for cache in caches)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_block_copy_copies_whole_blocks_and_nothing_else(source, layout):
    caches = empty_caches(CacheShape(5, 2, 16, 80, layout=layout), "float32")
    for cache in caches:
        cache.copy_(source.normal(*cache.shape))
    before = [cache.clone() for cache in caches]
    reference.block_copy(*caches, torch.tensor([[4, 0], [4, 2]]))
    for cache, old in zip(caches, before, strict=True):
        assert torch.equal(cache, old[[4, 1, 4, 3, 4]])


@pytest.mark.parametrize("norms", [True, False])
def test_the_composite_is_its_parts(source, norms, op):
    qkv, positions, slots = source.normal(5, (4 + 2 * 2) * 16), torch.arange(5), torch.tensor([3, -1, 0, 9, 31])
    q_norm, k_norm = (source.normal(16), source.normal(16)) if norms else (None, None)
    table = rotary_table(5, 16)
    expected = empty_caches(CacheShape(2, 2, 16, 16), "float32")
    query, key, value = (part.view(5, -1, 16) for part in qkv.split((64, 32, 32), dim=1))
    if norms:
        query, key = reference.rms_norm(query, q_norm, 1e-6), reference.rms_norm(key, k_norm, 1e-6)
    query, key = reference.rope(query, key, positions, table)
    reference.kv_write(key, value, *expected, slots)
    caches = empty_caches(CacheShape(2, 2, 16, 16), "float32")
    actual = reference.qkv_rope_write(qkv, positions, table, q_norm, k_norm, 1e-6, *caches, slots)
    torch.testing.assert_close(actual, query, rtol=0, atol=0)
    torch.testing.assert_close(caches, expected, rtol=0, atol=0, equal_nan=True)


def parts_of(op, attributes):
    bound = {}

    def bind(request):
        bound[request.op] = request
        return getattr(reference, request.op)

    op("qkv_rope_write").compose(KernelRequest("qkv_rope_write", "bfloat16", attributes), bind)
    return bound


def test_the_composite_asks_for_its_parts_by_their_own_attributes(op):
    attributes = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 64,
        "rotary_dim": 32,
        "qk_norm": True,
        "block_size": 16,
        "kv_dtype": "float32",
    }
    parts = parts_of(op, attributes)
    assert {name: request.dtype for name, request in parts.items()} == dict.fromkeys(
        ("rms_norm", "rope", "kv_write"), "bfloat16"
    )
    for name, request in parts.items():
        assert request.attributes.keys() == set(op(name).attributes)
    assert parts["rms_norm"].attributes["hidden_size"] == 64


def test_the_composite_asks_for_no_norm_where_there_is_none(op):
    assert parts_of(op, {"qk_norm": False}).keys() == {"rope", "kv_write"}
