"""The pool of KV blocks: who owns each, which hold a cached prefix, and which goes next.

Invariants (`check_integrity`): a block is either reserved, or free (no owner, in the free list), or owned (one count
for each table it stands in); an indexed block has one hash and the hash names that block. A free block keeps its hash,
and so its content, until it is allocated again: that is the only eviction. Blocks without a hash go first, then the
least recently freed. All operations cost O(1) a block. Called by the scheduler only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from quire.errors import CapacityError


class BlockPool:
    """Owns block ids `reserved … num_blocks - 1`. Bytes are the backend's.

    The free list is doubly linked through two lists of ints, so that a cache hit can take a block out of its middle;
    entry `num_blocks` is the list's end on both sides.
    """

    def __init__(self, num_blocks: int, reserved: int = 0) -> None:
        if not 0 <= reserved < num_blocks:
            raise CapacityError(f"the KV cache has {num_blocks} blocks, {reserved} of them reserved; none is left")
        self.num_blocks = num_blocks
        self.reserved = reserved
        self.num_free = num_blocks - reserved
        self._end = num_blocks
        self._refs = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._index: dict[bytes, int] = {}
        ids = list(range(reserved, num_blocks))
        self._next = [0] * reserved + [*ids[1:], self._end, ids[0]]
        self._previous = [0] * reserved + [self._end, *ids]

    @property
    def num_usable(self) -> int:
        """Blocks that requests can get at all."""
        return self.num_blocks - self.reserved

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.reserved - self.num_free

    @property
    def num_indexed(self) -> int:
        return len(self._index)

    def num_owners(self, block: int) -> int:
        return self._refs[block]

    def cached_blocks(self) -> list[int]:
        """Return the blocks whose content a later request may find, owned or free."""
        return list(self._index.values())

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks from the front of the free list; what they cached is forgotten. Raise CapacityError."""
        if count > self.num_free:
            raise CapacityError(f"{count} KV blocks are wanted and {self.num_free} are free")
        following, previous, hashes, end = self._next, self._previous, self._hashes, self._end
        blocks = []
        block = following[end]
        for _ in range(count):
            blocks.append(block)
            self._refs[block] = 1
            if (cached := hashes[block]) is not None:
                del self._index[cached]
                hashes[block] = None
            block = following[block]
        following[end] = block
        previous[block] = end
        self.num_free -= count
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add an owner to each block; free ones leave the free list with what they cache."""
        for block in blocks:
            if self._refs[block] == 0:
                self._unlink(block)
            self._refs[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Take an owner from each block of one sequence, given in its order: its tail is freed, so evicted, first."""
        refs = self._refs
        for block in reversed(blocks):
            refs[block] -= 1
            assert refs[block] >= 0, f"block {block} was freed more often than it was taken"
            if refs[block] == 0:
                self._link(block)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest cached prefix of a hash chain."""
        index, found = self._index, []
        for block_hash in hashes:
            block = index.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def index(self, block: int, block_hash: bytes) -> None:
        """Offer an owned block's content to others; if the content is cached already, that block stays the one."""
        if self._hashes[block] is None and block_hash not in self._index:
            self._hashes[block] = block_hash
            self._index[block_hash] = block

    def forget(self, blocks: Iterable[int]) -> None:
        """Take blocks out of the index: their content turned out to be wrong."""
        for block in blocks:
            if (block_hash := self._hashes[block]) is not None:
                del self._index[block_hash]
                self._hashes[block] = None

    def count_free(self, blocks: Iterable[int]) -> int:
        """Return how many of these have no owner, so that sharing them would shrink the free list."""
        return sum(self._refs[block] == 0 for block in blocks)

    def reset_prefix_cache(self) -> int:
        """Forget all cached content; return how many blocks had some. Owners must not index what they had before."""
        dropped = len(self._index)
        self._index.clear()
        self._hashes = [None] * self.num_blocks
        return dropped

    def check_integrity(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Assert the invariants; with all owners' block tables, also that every reference is accounted for."""
        self._check_free_list()
        for block_hash, block in self._index.items():
            assert self._hashes[block] == block_hash, f"the index names block {block}, which has another hash"
        indexed = sum(item is not None for item in self._hashes)
        assert indexed == len(self._index), f"{indexed} blocks have a hash, {len(self._index)} are indexed"
        if tables is not None:
            counts = Counter(block for table in tables for block in table)
            for block, refs in enumerate(self._refs):
                assert refs == counts[block], f"block {block} counts {refs} owners and stands in {counts[block]} tables"

    def _check_free_list(self) -> None:
        seen, before, block = set(), self._end, self._next[self._end]
        while block != self._end:
            assert block not in seen, f"block {block} is in the free list twice"
            assert self._previous[block] == before, f"the free list is broken before block {block}"
            assert self._refs[block] == 0, f"block {block} is free and has {self._refs[block]} owners"
            seen.add(block)
            before, block = block, self._next[block]
        assert len(seen) == self.num_free, f"{len(seen)} blocks are in the free list, {self.num_free} are counted"
        owned = sum(refs > 0 for refs in self._refs)
        assert owned == self.num_used, f"{owned} blocks are owned, {self.num_used} are counted"

    def _unlink(self, block: int) -> None:
        after, before = self._next[block], self._previous[block]
        self._next[before] = after
        self._previous[after] = before
        self.num_free -= 1

    def _link(self, block: int) -> None:
        """Put a block into the free list: last if it caches something, else first."""
        end = self._end
        before, after = (end, self._next[end]) if self._hashes[block] is None else (self._previous[end], end)
        self._next[block], self._previous[block] = after, before
        self._next[before] = block
        self._previous[after] = block
        self.num_free += 1
