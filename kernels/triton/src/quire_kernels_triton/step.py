"""What begins and ends a step: gather_step, select_rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire_kernels_triton.launching import Launch, in_order, start_next, wait_for_inputs

BLOCK = 1024
LANES = 128


@triton.jit(do_not_specialize=["num_tokens"], do_not_specialize_on_alignment=["token_rows", "positions", "rows"])
def gather_step_kernel(
    tokens, blocks, token_rows, positions, rows, token_ids, positions_out, slots, block_table,
    num_tokens, num_blocks, tokens_stride, blocks_stride,
    BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Program (0, i) looks up LANES tokens; program (1 + r, i) copies BLOCK entries of row r's block table."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    row, part = tl.program_id(0), tl.program_id(1)
    if row == 0:
        for first in range(part * LANES, num_tokens, LANES * tl.num_programs(1)):
            lanes = first + tl.arange(0, LANES)
            there = lanes < num_tokens
            seat = tl.load(token_rows + lanes, mask=there, other=0).to(tl.int64)
            position = tl.load(positions + lanes, mask=there, other=0).to(tl.int64)
            token = tl.load(tokens + seat * tokens_stride + position, mask=there, other=0)
            block = tl.load(blocks + seat * blocks_stride + position // BLOCK_SIZE, mask=there, other=0)
            tl.store(token_ids + lanes, token.to(tl.int64), mask=there)
            tl.store(positions_out + lanes, position, mask=there)
            tl.store(slots + lanes, block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE, mask=there)
    else:
        seat = tl.load(rows + row - 1).to(tl.int64)
        entries = part * BLOCK + tl.arange(0, BLOCK)
        found = tl.load(blocks + seat * blocks_stride + entries, mask=entries < num_blocks)
        tl.store(block_table + (row - 1).to(tl.int64) * num_blocks + entries, found, mask=entries < num_blocks)


@triton.jit(do_not_specialize_on_alignment=["index"])
def select_rows_kernel(hidden, index, selected, finite, size, stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    """Copy one row, and say whether it is finite."""
    wait_for_inputs(DEPENDENT)
    start_next(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    source = hidden + tl.load(index + row).to(tl.int64) * stride
    unsound = tl.zeros([BLOCK], tl.int32)
    for first in range(0, size, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        values = tl.load(source + columns, mask=columns < size, other=0.0)
        tl.store(selected + row * size + columns, values, mask=columns < size)
        unsound |= (~(tl.abs(values.to(tl.float32)) < float("inf"))).to(tl.int32)  # NaN is not less than anything
    tl.store(finite + row, tl.max(unsound, axis=0) == 0)


def gather_step(
    tokens: torch.Tensor,
    blocks: torch.Tensor,
    token_rows: torch.Tensor,
    positions: torch.Tensor,
    rows: torch.Tensor,
    block_size: int,
    num_blocks: int,
    launch: Launch = in_order,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, positions and slots [T] int64, and the block tables [R, num_blocks] of `rows`."""
    num_tokens, device = len(positions), tokens.device
    token_ids, positions_out, slots = (torch.empty(num_tokens, dtype=torch.int64, device=device) for _ in range(3))
    block_table = torch.empty((len(rows), num_blocks), dtype=torch.int32, device=device)
    parts = max(triton.cdiv(num_blocks, BLOCK), min(triton.cdiv(num_tokens, LANES), 16))
    gather_step_kernel[(1 + len(rows), parts)](
        tokens, blocks, token_rows, positions, rows, token_ids, positions_out, slots, block_table,
        num_tokens, num_blocks, tokens.stride(0), blocks.stride(0),
        BLOCK_SIZE=block_size, BLOCK=BLOCK, LANES=LANES, num_warps=4, **launch(num_tokens),
    )  # fmt: skip
    return token_ids, positions_out, slots, block_table


def select_rows(
    hidden: torch.Tensor, index: torch.Tensor, launch: Launch = in_order
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows `index` [S] of hidden [T, H], and which of them are finite throughout."""
    selected = torch.empty((len(index), hidden.shape[1]), dtype=hidden.dtype, device=hidden.device)
    finite = torch.empty(len(index), dtype=torch.bool, device=hidden.device)
    if len(index):
        select_rows_kernel[(len(index),)](
            hidden, index, selected, finite, hidden.shape[1], hidden.stride(0),
            BLOCK=BLOCK, num_warps=4, **launch(len(index)),
        )  # fmt: skip
    return selected, finite
