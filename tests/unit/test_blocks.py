"""The block pool, one behaviour at a time; `test_blocks_machine.py` has all of them in any order."""

import pytest

from quire.errors import CapacityError
from quire.scheduling.blocks import BlockPool


def named(number):
    return number.to_bytes(32, "big")


def cached_sequence(pool, count):
    """Allocate blocks, index each, and return them."""
    blocks = pool.allocate(count)
    for block in blocks:
        pool.index(block, named(block))
    return blocks


def test_reserved_blocks_are_never_given():
    pool = BlockPool(7, reserved=2)
    assert sorted(pool.allocate(5)) == [2, 3, 4, 5, 6]


def test_more_blocks_than_are_free_are_refused_and_nothing_is_taken():
    pool = BlockPool(3)
    with pytest.raises(CapacityError, match="4 KV blocks are wanted and 3 are free"):
        pool.allocate(4)
    assert pool.num_free == 3


def test_a_pool_without_a_usable_block_is_refused():
    with pytest.raises(CapacityError):
        BlockPool(2, reserved=2)


def test_a_shared_block_is_free_after_its_last_owner():
    pool = BlockPool(3)
    blocks = pool.allocate(1)
    pool.share(blocks)
    pool.free(blocks)
    assert pool.num_free == 2
    pool.free(blocks)
    assert pool.num_free == 3


def test_freeing_too_often_is_a_bug_that_shows():
    pool = BlockPool(3)
    blocks = pool.allocate(1)
    pool.free(blocks)
    with pytest.raises(AssertionError, match="freed more often"):
        pool.free(blocks)


def test_a_freed_block_keeps_its_content_until_it_is_allocated():
    pool = BlockPool(3)
    (block,) = cached_sequence(pool, 1)
    pool.free([block])
    assert pool.match([named(block)]) == [block]
    pool.allocate(3)
    assert pool.match([named(block)]) == []


def test_blocks_that_cache_nothing_are_given_first():
    pool = BlockPool(4)
    cached = cached_sequence(pool, 2)
    plain = pool.allocate(2)
    pool.free(cached)
    pool.free(plain)
    assert set(pool.allocate(2)) == set(plain)


def test_the_tail_of_a_sequence_is_evicted_before_its_head():
    pool = BlockPool(4)
    blocks = cached_sequence(pool, 4)
    pool.free(blocks)
    assert pool.allocate(3) == blocks[:0:-1]


def test_the_sequence_freed_first_is_evicted_first():
    pool = BlockPool(4)
    old, new = cached_sequence(pool, 2), cached_sequence(pool, 2)
    pool.free(old)
    pool.free(new)
    assert set(pool.allocate(2)) == set(old)


def test_a_hit_takes_a_block_out_of_the_middle_of_the_free_list():
    pool = BlockPool(5)
    blocks = cached_sequence(pool, 5)
    pool.free(blocks)
    pool.share([blocks[2]])
    pool.check_integrity([[blocks[2]]])
    assert blocks[2] not in pool.allocate(4)


def test_a_match_ends_at_the_first_miss():
    pool = BlockPool(4)
    first, second, third = cached_sequence(pool, 3)
    pool.forget([second])
    assert pool.match([named(first), named(second), named(third)]) == [first]


def test_content_cached_twice_keeps_its_first_block():
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    pool.index(first, named(1))
    pool.index(second, named(1))
    assert pool.match([named(1)]) == [first]


def test_a_reset_forgets_all_content_and_frees_nothing():
    pool = BlockPool(4)
    blocks = cached_sequence(pool, 3)
    assert pool.reset_prefix_cache() == 3
    assert (pool.num_indexed, pool.num_used) == (0, 3)
    pool.check_integrity([blocks])


def test_integrity_finds_a_reference_without_an_owner():
    pool = BlockPool(4)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="counts 1 owners and stands in 0 tables"):
        pool.check_integrity([])
