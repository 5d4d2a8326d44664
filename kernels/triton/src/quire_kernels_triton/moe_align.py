"""Which rows of a mixture of experts go together: pairs (token, one of its experts) in blocks of one expert each.

Pair p is choice ``p % top_k`` of token ``p // top_k``. Every expert's pairs fill whole blocks of ROWS slots, the last
of them in part (MegaBlocks, Gale et al. 2022). The number of blocks has an upper bound that follows from shapes alone,
so nothing is read on the host. In which order an expert's pairs stand differs from run to run; no result depends on
it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.launching import start_next, wait_for_inputs


@triton.jit
def place_pairs(experts, next_slot, pair_of_slot, first, num_pairs, CHUNK: tl.constexpr):
    """Give CHUNK pairs the next free slot of their expert."""
    pairs = first + tl.arange(0, CHUNK)
    there = pairs < num_pairs
    chosen = tl.load(experts + pairs, mask=there, other=0)
    slots = tl.atomic_add(next_slot + chosen, 1, mask=there, sem="relaxed")
    tl.store(pair_of_slot + slots, pairs, mask=there)


@triton.jit(do_not_specialize=["num_pairs", "num_blocks"])
def align_kernel(
    experts, block_expert, block_rows, next_slot, pair_of_slot, num_pairs, num_blocks,
    ROWS: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr, BLOCKS: tl.constexpr, PLACE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Count, and write each block's expert and number of pairs (0: nobody's block), and each expert's first slot.
    PLACE: place the pairs too. One program does it all."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    ids = tl.arange(0, EXPERTS)
    counts = tl.zeros([EXPERTS], tl.int32)
    for first in range(0, num_pairs, CHUNK):
        pairs = first + tl.arange(0, CHUNK)
        chosen = tl.load(experts + pairs, mask=pairs < num_pairs, other=0).to(tl.int32)
        counts += tl.histogram(chosen, EXPERTS, mask=pairs < num_pairs)
    lengths = tl.cdiv(counts, ROWS)
    ends = tl.cumsum(lengths, axis=0)
    starts = ends - lengths
    tl.store(next_slot + ids, starts * ROWS)
    for first in range(0, num_blocks, BLOCKS):
        blocks = first + tl.arange(0, BLOCKS)
        expert = tl.sum((ends[None, :] <= blocks[:, None]).to(tl.int32), axis=1)
        left = counts[None, :] - (blocks[:, None] - starts[None, :]) * ROWS
        rows = tl.sum(tl.where(ids[None, :] == expert[:, None], tl.minimum(left, ROWS), 0), axis=1)
        tl.store(block_expert + blocks, expert, mask=blocks < num_blocks)
        tl.store(block_rows + blocks, rows, mask=blocks < num_blocks)
    if PLACE:
        tl.debug_barrier()  # the first slots are written by other threads than those that count them up
        for first in range(0, num_pairs, CHUNK):
            place_pairs(experts, next_slot, pair_of_slot, first, num_pairs, CHUNK)


@triton.jit(do_not_specialize=["num_pairs"])
def place_kernel(experts, next_slot, pair_of_slot, num_pairs, CHUNK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Place CHUNK pairs a program."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    place_pairs(experts, next_slot, pair_of_slot, tl.program_id(0) * CHUNK, num_pairs, CHUNK)
