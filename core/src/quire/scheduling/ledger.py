"""Who owns which KV: rows and blocks of running requests, kept in step with each other.

The scheduler decides; the ledger does the book-keeping of a decision. Its invariant: a running request has one row, and
blocks for `capacity` slots, of which the first `computed` are written or will be by a step already planned; the last
block of a running request, which it writes to, has no other owner.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from quire.plan import NewRow
from quire.scheduling.blocks import BlockPool
from quire.scheduling.prefix import extend_hashes
from quire.scheduling.request import Request, RequestStatus
from quire.scheduling.rows import RowTable


class PrefixMatch(NamedTuple):
    """KV that a request need not compute: the first `computed` positions, in blocks that it can share. Where the next
    position falls inside a block, that block is `copy_from`: it has other readers, so it is copied before writing."""

    computed: int = 0
    blocks: tuple[int, ...] = ()
    copy_from: int | None = None


NO_MATCH = PrefixMatch()


class Growth(NamedTuple):
    """Blocks given to a row: `block_ids` stand at `first_index` and after in its table."""

    first_index: int
    block_ids: list[int]


class Ledger:
    """Rows, blocks and the prefix index. `num_unwritten` is the number of slots owned and not written: KV waste."""

    def __init__(self, pool: BlockPool, rows: RowTable, block_size: int, use_prefix_cache: bool) -> None:
        self.pool = pool
        self.rows = rows
        self.block_size = block_size
        self.use_prefix_cache = use_prefix_cache
        self.num_unwritten = 0

    def num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def hashes(self, request: Request, num_tokens: int) -> list[bytes]:
        """Return the hash chain of the full blocks among a request's first `num_tokens` tokens, or more of it."""
        return extend_hashes(request, num_tokens // self.block_size, self.block_size)

    def find_prefix(self, request: Request) -> PrefixMatch:
        """Return the longest cached prefix that leaves at least the last token to compute."""
        if not self.use_prefix_cache or request.needs_all_positions:
            return NO_MATCH
        found = self.pool.match(self.hashes(request, request.num_tokens))
        return self._usable(found, min(len(found) * self.block_size, request.num_tokens - 1))

    def fork_prompt(self, leader: Request) -> PrefixMatch:
        """Return the leader's prompt but for its last token, for a request with the same prompt."""
        return self._usable(leader.block_ids, leader.prompt_len - 1)

    def without_copy(self, match: PrefixMatch) -> PrefixMatch:
        """Return a smaller match that ends at a block's end."""
        return PrefixMatch(len(match.blocks) * self.block_size, match.blocks)

    def blocks_taken(self, request: Request, match: PrefixMatch) -> int:
        """Return by how many blocks the free list shrinks when all known tokens of a request get their slots."""
        revived = self.pool.count_free(match.blocks if match.copy_from is None else (*match.blocks, match.copy_from))
        return self.num_blocks(request.num_tokens) - len(match.blocks) + revived

    def seat(self, request: Request, match: PrefixMatch, num_tokens: int) -> NewRow:
        """Give a waiting request a row, the blocks it shares and new ones for its first `num_tokens` positions.

        An owner is added to `match.copy_from`; the caller takes it away when the plan is complete, so that the block
        is not given out in the plan that copies it.
        """
        rows = self.rows
        row = rows.take(request)
        self.pool.share(match.blocks if match.copy_from is None else (*match.blocks, match.copy_from))
        request.block_ids = [*match.blocks, *self.pool.allocate(self.num_blocks(num_tokens) - len(match.blocks))]
        request.num_indexed_blocks = len(match.blocks)
        request.status = RequestStatus.RUNNING
        rows.computed[row] = match.computed
        rows.capacity[row] = capacity = len(request.block_ids) * self.block_size
        self.num_unwritten += capacity - match.computed
        return NewRow(
            row=row,
            token_ids=request.token_array(),
            prompt_len=request.prompt_len,
            block_ids=np.array(request.block_ids, np.int32),
            sampling=request.params,
            seed=request.seed,
            lora_id=request.lora_id,
            eos_token_ids=tuple(sorted(request.eos_token_ids)),
            bad_word_ids=request.bad_word_ids,
            pooling=request.pooling,
        )

    def grow(self, request: Request, num_tokens: int) -> Growth:
        """Give a running request blocks so that it has slots for its first `num_tokens` positions."""
        first = len(request.block_ids)
        blocks = self.pool.allocate(max(self.num_blocks(num_tokens) - first, 0))
        request.block_ids += blocks
        self.rows.capacity[request.row] += len(blocks) * self.block_size
        self.num_unwritten += len(blocks) * self.block_size
        return Growth(first, blocks)

    def compute(self, request: Request, num_tokens: int, samples: bool) -> None:
        """Count positions as written, and a token as under way if one is sampled."""
        self.rows.computed[request.row] += num_tokens
        self.rows.length[request.row] += samples
        self.num_unwritten -= num_tokens

    def correct(self, request: Request, num_computed: int, num_sampled: int) -> None:
        """Adjust for a step whose drafts were partly refused: positions to take back, tokens beyond the one counted."""
        self.rows.computed[request.row] -= num_computed
        self.rows.length[request.row] += num_sampled
        self.num_unwritten += num_computed

    def publish(self, request: Request, num_computed: int) -> None:
        """Offer a running request's full blocks to others, as far as their tokens are known and planned."""
        full = min(num_computed, len(request.token_ids)) // self.block_size
        first = request.num_indexed_blocks
        if full <= first or not self.use_prefix_cache:
            return
        hashes = extend_hashes(request, full, self.block_size)
        for index in range(first, full):
            self.pool.index(request.block_ids[index], hashes[index])
        request.num_indexed_blocks = full

    def reset_prefix_cache(self, running: Iterable[Request]) -> int:
        """Forget all cached prefixes; what running requests have computed until now, or add to it, is not offered."""
        for request in running:
            request.num_indexed_blocks = sys.maxsize
        return self.pool.reset_prefix_cache()

    def release(self, request: Request) -> int:
        """Take row and blocks from a running request; return the row. Its content stays cached until evicted."""
        row = request.row
        self.num_unwritten -= int(self.rows.capacity[row] - self.rows.computed[row])
        self.pool.free(request.block_ids)
        request.block_ids = []
        request.num_indexed_blocks = 0
        return self.rows.release(request)

    def check_integrity(self, running: list[Request]) -> None:
        """Assert that pool, rows and requests agree."""
        self.pool.check_integrity(request.block_ids for request in running)
        unwritten = sum(int(self.rows.capacity[r.row] - self.rows.computed[r.row]) for r in running)
        assert unwritten == self.num_unwritten, f"{unwritten} slots are unwritten, {self.num_unwritten} are counted"
        for request in running:
            slots = len(request.block_ids) * self.block_size
            assert slots == self.rows.capacity[request.row], f"{request} owns {slots} slots and counts another number"
            assert request.num_computed_tokens <= slots, f"{request} has computed past its blocks"

    def _usable(self, blocks: list[int], computed: int) -> PrefixMatch:
        full, offset = divmod(computed, self.block_size)
        return PrefixMatch(computed, tuple(blocks[:full]), blocks[full] if offset else None)
