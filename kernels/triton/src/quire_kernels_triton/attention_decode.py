"""paged_attention where every row has at most one query: the keys of a row are split over programs (flash-decoding, Dao
et al. 2023).

The grid follows from upper bounds alone, so a captured launch serves any lengths: each program works out from the
row's length how many splits are worth having, and leaves if it is not one of them. The last of a row's programs to
end adds the parts up, in the order of the splits, so that no second launch is needed and the sum does not depend on
which one was last. It leaves the counter at 0 for the next launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.attention_tile import NEVER, attend, finish
from quire_kernels_triton.launching import start_next, wait_for_inputs


@triton.jit
def combine_splits(
    part_acc, part_maximum, part_total, base, num_splits,
    GROUP_PADDED: tl.constexpr, DIMS: tl.constexpr, MAX_SPLITS: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Add up the parts of one row and KV head; rows are [GROUP_PADDED]."""
    splits, rows, dims = tl.arange(0, MAX_SPLITS), tl.arange(0, GROUP_PADDED), tl.arange(0, DIMS)
    at_all = (base + splits)[:, None] * GROUP_PADDED + rows[None, :]
    there = (splits < num_splits)[:, None]
    maxima = tl.load(part_maximum + at_all, mask=there, other=NEVER, cache_modifier=".cg")
    totals = tl.load(part_total + at_all, mask=there, other=0.0, cache_modifier=".cg")
    maximum = tl.max(maxima, axis=0)
    anchor = tl.where(maximum == NEVER, 0.0, maximum)
    total = tl.sum(totals * tl.exp2(maxima - anchor[None, :]), axis=0)
    acc = tl.zeros([GROUP_PADDED, DIMS], tl.float32)
    for first in range(0, num_splits, BATCH):
        batch = first + tl.arange(0, BATCH)
        at = (base + batch)[:, None] * GROUP_PADDED + rows[None, :]
        some = (batch < num_splits)[:, None]
        weights = tl.exp2(tl.load(part_maximum + at, mask=some, other=NEVER, cache_modifier=".cg") - anchor[None, :])
        parts = tl.load(
            part_acc + at[:, :, None] * DIMS + dims[None, None, :],
            mask=some[:, :, None],
            other=0.0,
            cache_modifier=".cg",
        )
        acc += tl.sum(parts * weights[:, :, None], axis=0)
    return maximum, total, acc


@triton.jit
def bring_near(cache, blocks, positions, stride_block, stride_slot, BLOCK_SIZE: tl.constexpr, LINES: tl.constexpr):
    """Have the keys or values at `positions` of one head brought to the second-level cache, LINES lines each."""
    line = tl.arange(0, LINES) * (1024 // cache.dtype.element_ty.primitive_bitwidth)  # of 128 bytes
    starts = blocks.to(tl.int64) * stride_block + (positions % BLOCK_SIZE).to(tl.int64) * stride_slot
    at = (cache + starts[:, None] + line[None, :]).to(tl.int64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def bring_first_near(
    key_cache, value_cache, block_row, first, last, is_there, kc_block, kc_slot, vc_block, vc_slot,
    BLOCK_SIZE: tl.constexpr, AHEAD: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Bring the first AHEAD of them near. Only this step's own are yet to be written, and nothing is read here."""
    if is_there & (first < last):
        positions = tl.minimum(first + tl.arange(0, AHEAD), last - 1)
        blocks = tl.load(block_row + positions // BLOCK_SIZE)
        bring_near(key_cache, blocks, positions, kc_block, kc_slot, BLOCK_SIZE, LINES)
        bring_near(value_cache, blocks, positions, vc_block, vc_slot, BLOCK_SIZE, LINES)


@triton.jit
def write_out(
    to, maximum, total, acc, sinks, kv_head,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, ROWS: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """Write the heads of one token; of the ROWS rows, the first GROUP are heads."""
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIMS)
    heads = kv_head * GROUP + rows
    result = finish(maximum, total, acc, sinks, heads, rows < GROUP, SINKS)
    mask = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(to + heads[:, None] * HEAD_DIM + dims[None, :], result.to(to.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["max_splits"], do_not_specialize_on_alignment=["query_start", "seq_lens", "sinks"])
def decode_kernel(
    query, key_cache, value_cache, out, query_start, seq_lens, block_table, sinks,
    part_acc, part_maximum, part_total, counters,
    scale, soft_cap, window, max_splits,
    query_token, query_head, out_token, table_row,
    kc_block, kc_head, kc_slot, vc_block, vc_head, vc_slot,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, GROUP_PADDED: tl.constexpr, TILE: tl.constexpr, MAX_SPLITS: tl.constexpr, BATCH: tl.constexpr,
    MIN_CHUNK: tl.constexpr, WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, SINKS: tl.constexpr,
    COMPUTE: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr, LINES: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Attend from one row's query, in all heads of one KV head, to one of at most max_splits splits of its keys."""
    kv_head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    token = tl.load(query_start + row)
    is_there = tl.load(query_start + row + 1) > token
    seq_len = tl.load(seq_lens + row)
    begin = 0
    if WINDOW:
        begin = tl.maximum(seq_len - window, 0)
    chunk = tl.maximum(tl.cdiv(tl.cdiv(seq_len - begin, max_splits), TILE) * TILE, MIN_CHUNK)
    num_splits = tl.maximum(tl.cdiv(seq_len - begin, chunk), 1)
    if MAX_SPLITS == 1:
        num_splits = 1  # known when compiled: the parts below are left out
    first = begin + split * chunk
    last = tl.minimum(first + chunk, seq_len)
    block_row = block_table + row.to(tl.int64) * table_row
    keys_from = key_cache + kv_head.to(tl.int64) * kc_head
    values_from = value_cache + kv_head.to(tl.int64) * vc_head
    if DEPENDENT:
        bring_first_near(
            keys_from, values_from, block_row, first, last, is_there, kc_block, kc_slot, vc_block, vc_slot,
            BLOCK_SIZE, AHEAD, LINES,
        )  # fmt: skip
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    if is_there & (split < num_splits):
        lanes, dims = tl.arange(0, ROWS), tl.arange(0, DIMS)
        valid = lanes < GROUP
        heads = (kv_head * GROUP + lanes).to(tl.int64)
        mask = valid[:, None] & (dims < HEAD_DIM)[None, :]
        at = token.to(tl.int64) * query_token + heads[:, None] * query_head + dims[None, :]
        queries = tl.load(query + at, mask=mask, other=0.0).to(COMPUTE)
        maximum = tl.full([ROWS], NEVER, tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, DIMS], tl.float32)
        positions = tl.full([ROWS], 0, tl.int32) + (last - 1)
        maximum, total, acc = attend(
            queries, positions, keys_from, values_from, block_row, first, last, last, scale, soft_cap, window,
            maximum, total, acc, kc_block, kc_slot, vc_block, vc_slot,
            BLOCK_SIZE, HEAD_DIM, DIMS, TILE, STAGES, False, SOFT_CAP, COMPUTE, True,
        )  # fmt: skip

        to = out + token.to(tl.int64) * out_token
        if num_splits == 1:
            write_out(to, maximum, total, acc, sinks, kv_head, GROUP, HEAD_DIM, DIMS, ROWS, SINKS)
        else:
            pair = row.to(tl.int64) * tl.num_programs(0) + kv_head
            base = pair * max_splits
            at_row = (base + split) * GROUP_PADDED + lanes
            kept = lanes < GROUP_PADDED
            tl.store(part_maximum + at_row, maximum, mask=kept)
            tl.store(part_total + at_row, total, mask=kept)
            tl.store(part_acc + at_row[:, None] * DIMS + dims[None, :], acc, mask=kept[:, None])
            tl.debug_barrier()  # every thread's part is written before the one that counts says so
            ended = tl.atomic_add(counters + pair, 1, sem="acq_rel", scope="gpu")
            if ended == num_splits - 1:
                tl.debug_barrier()
                tl.store(counters + pair, 0)
                all_maximum, all_total, all_acc = combine_splits(
                    part_acc, part_maximum, part_total, base, num_splits, GROUP_PADDED, DIMS, MAX_SPLITS, BATCH
                )
                write_out(
                    to, all_maximum, all_total, all_acc, sinks, kv_head, GROUP, HEAD_DIM, DIMS, GROUP_PADDED, SINKS
                )
