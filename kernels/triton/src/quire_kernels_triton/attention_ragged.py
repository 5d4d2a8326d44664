"""paged_attention of ragged rows, prefill and decode mixed, in one launch.

A program takes up to ROWS // GROUP query tokens of one row, with all query heads of one KV head. Which row that is it
finds itself: row r's tiles begin at ``query_start[r] // TOKENS + r``, an upper bound of the tiles of the rows before
it, so the grid depends on the number of tokens and rows alone, and a captured launch serves any mix of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.attention_tile import NEVER, attend, finish
from quire_kernels_triton.launching import start_next, wait_for_inputs


@triton.jit
def row_of_tile(query_start, tile, num_rows, TOKENS: tl.constexpr, SEQS: tl.constexpr):
    """Return the last row whose tiles begin at or before `tile`: all are looked at at once, as one load is waited for
    where a search would wait for one after another."""
    rows = tl.arange(0, SEQS)
    starts = tl.load(query_start + rows, mask=rows < num_rows, other=0)
    before = (rows < num_rows) & (starts // TOKENS + rows <= tile)
    return tl.sum(before.to(tl.int32), axis=0) - 1


@triton.jit(
    do_not_specialize=["num_rows", "num_tiles"], do_not_specialize_on_alignment=["query_start", "seq_lens", "sinks"]
)
def ragged_kernel(
    query, key_cache, value_cache, out, query_start, seq_lens, block_table, sinks,
    num_rows, num_tiles, scale, soft_cap, window,
    query_token, query_head, out_token, table_row,
    kc_block, kc_head, kc_slot, vc_block, vc_head, vc_slot,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    SEQS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr, WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr, SINKS: tl.constexpr, COMPUTE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Attend from one tile of query tokens."""
    TOKENS: tl.constexpr = ROWS // GROUP
    kv_head = tl.program_id(1)
    tile = num_tiles - 1 - tl.program_id(0)  # the longest tiles of a long prompt first
    row = row_of_tile(query_start, tile, num_rows, TOKENS, SEQS)
    start, end = tl.load(query_start + row), tl.load(query_start + row + 1)
    first = (tile - (start // TOKENS + row)) * TOKENS  # of the row's query tokens
    wait_for_inputs(DEPENDENT)
    if first < end - start:
        seq_len = tl.load(seq_lens + row)
        first_position = seq_len - (end - start) + first

        lanes = tl.arange(0, ROWS)
        tokens = first + lanes // GROUP
        heads = (kv_head * GROUP + lanes % GROUP).to(tl.int64)
        valid = (lanes // GROUP < TOKENS) & (tokens < end - start)
        positions = tl.where(valid, seq_len - (end - start) + tokens, -1)
        dims = tl.arange(0, DIMS)
        mask = valid[:, None] & (dims < HEAD_DIM)[None, :]
        at = (start + tokens).to(tl.int64)[:, None] * query_token + heads[:, None] * query_head + dims[None, :]
        queries = tl.load(query + at, mask=mask, other=0.0).to(COMPUTE)

        block_row = block_table + row.to(tl.int64) * table_row
        keys_from = key_cache + kv_head.to(tl.int64) * kc_head
        values_from = value_cache + kv_head.to(tl.int64) * vc_head
        maximum = tl.full([ROWS], NEVER, tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, DIMS], tl.float32)

        last = tl.minimum(first_position + TOKENS, seq_len)  # keys that some query of the tile may see
        common = (first_position + 1) // TILE * TILE  # keys before this one are not later than any query
        begin = 0
        if WINDOW:
            begin = tl.maximum(first_position - window + 1, 0) // TILE * TILE
            masked_until = tl.cdiv(tl.maximum(first_position + TOKENS - window, 0), TILE) * TILE
            maximum, total, acc = attend(
                queries, positions, keys_from, values_from, block_row, begin, tl.minimum(masked_until, last), last,
                scale, soft_cap, window, maximum, total, acc, kc_block, kc_slot, vc_block, vc_slot,
                BLOCK_SIZE, HEAD_DIM, DIMS, TILE, STAGES, WINDOW, SOFT_CAP, COMPUTE, True,
            )  # fmt: skip
            begin = masked_until
        maximum, total, acc = attend(
            queries, positions, keys_from, values_from, block_row, begin, common, last,
            scale, soft_cap, window, maximum, total, acc, kc_block, kc_slot, vc_block, vc_slot,
            BLOCK_SIZE, HEAD_DIM, DIMS, TILE, STAGES, WINDOW, SOFT_CAP, COMPUTE, False,
        )  # fmt: skip
        maximum, total, acc = attend(
            queries, positions, keys_from, values_from, block_row, tl.maximum(begin, common), last, last,
            scale, soft_cap, window, maximum, total, acc, kc_block, kc_slot, vc_block, vc_slot,
            BLOCK_SIZE, HEAD_DIM, DIMS, TILE, STAGES, WINDOW, SOFT_CAP, COMPUTE, True,
        )  # fmt: skip

        start_next(DEPENDENT)
        result = finish(maximum, total, acc, sinks, heads, valid, SINKS)
        to = (start + tokens).to(tl.int64)[:, None] * out_token + heads[:, None] * HEAD_DIM + dims[None, :]
        tl.store(out + to, result.to(out.dtype.element_ty), mask=mask)
