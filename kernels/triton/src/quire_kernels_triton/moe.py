"""moe: each token's SwiGLU experts. Align the pairs, gate and up, down, and the weighted sum: four or five launches.

A few pairs are not aligned: each is a block of its own, and an expert that two of them share is read twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from quire_kernels_triton.moe_align import align_kernel, place_kernel
from quire_kernels_triton.moe_experts import combine_kernel, experts_kernel
from quire_kernels_triton.tuning import EXPERT_ROWS, ExpertsSettings, Target, settings_for

FEW_PAIRS = 16
PLACED_AT_ONCE = 4096  # pairs that one program places; more take a launch of their own
CHUNK = 1024
BLOCK = 1024


class Blocks(NamedTuple):
    """Pairs by expert; see `moe_align`. Without `rows`, block p is pair p."""

    count: int
    expert: torch.Tensor
    rows: torch.Tensor | None
    pair_of_slot: torch.Tensor


class MixtureOfExperts:
    """The op moe as a callable for one GPU."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._settings = settings_for(target.family).experts

    def __call__(
        self,
        x: torch.Tensor,
        weights: torch.Tensor,
        experts: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
    ) -> torch.Tensor:
        """Return the weighted sum [T, H] of each token's experts; arguments as in `quire.ops.spec`."""
        num_tokens, hidden_size = x.shape
        out = torch.empty((num_tokens, hidden_size), dtype=x.dtype, device=x.device)
        if not num_tokens:
            return out
        top_k, experts = experts.shape[1], experts.contiguous()
        settings = fit_experts(self._settings, experts.numel(), len(gate_up), x.dtype)
        blocks = self._align(experts, len(gate_up), settings.rows)
        gated = settings._replace(out=max(16, settings.out // 2))  # two sums at once
        hidden = self._product(x, gate_up, experts, blocks, gated, top_k, gate=True)
        parts = self._product(hidden, down, experts, blocks, settings, 1, gate=False)
        combine_kernel[(num_tokens, triton.cdiv(hidden_size, BLOCK))](
            parts, weights.contiguous(), out, hidden_size, TOP_K=top_k, BLOCK=BLOCK,
            num_warps=4, **self._target.launch(num_tokens),
        )  # fmt: skip
        return out

    def _align(self, experts: torch.Tensor, num_experts: int, rows: int) -> Blocks:
        num_pairs, device = experts.numel(), experts.device
        if num_pairs <= FEW_PAIRS:
            return Blocks(num_pairs, experts, None, experts)
        num_blocks = num_pairs // rows + min(num_experts, num_pairs)
        padded = triton.next_power_of_2(num_experts)
        expert, block_rows, next_slot, pair_of_slot = (
            torch.empty(count, dtype=torch.int32, device=device)
            for count in (num_blocks, num_blocks, padded, num_blocks * rows)
        )
        place = num_pairs <= PLACED_AT_ONCE
        align_kernel[(1,)](
            experts, expert, block_rows, next_slot, pair_of_slot, num_pairs, num_blocks,
            ROWS=rows, EXPERTS=padded, CHUNK=CHUNK, BLOCKS=max(1, 4096 // padded), PLACE=place,
            num_warps=8, **self._target.launch(len(experts)),
        )  # fmt: skip
        if not place:
            place_kernel[(triton.cdiv(num_pairs, CHUNK),)](
                experts, next_slot, pair_of_slot, num_pairs, CHUNK=CHUNK,
                num_warps=8, **self._target.launch(len(experts)),
            )  # fmt: skip
        return Blocks(num_blocks, expert, block_rows, pair_of_slot)

    def _product(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        experts: torch.Tensor,
        blocks: Blocks,
        settings: ExpertsSettings,
        share: int,
        gate: bool,
    ) -> torch.Tensor:
        """Return every pair's product [T * k, N]; `share` pairs in turn have one row of x."""
        _, out_features, in_features = weight.shape
        out_features //= 2 if gate else 1
        out = torch.empty((experts.numel(), out_features), dtype=x.dtype, device=x.device)
        experts_kernel[(blocks.count, triton.cdiv(out_features, settings.out))](
            x, weight, out, experts, blocks.expert, experts if blocks.rows is None else blocks.rows,
            blocks.pair_of_slot, out_features, in_features, x.stride(0), weight.stride(0), weight.stride(1),
            SHARE=share, GATE=gate, ALIGNED=blocks.rows is not None, EVEN=in_features % settings.inner == 0,
            ROWS=settings.rows, OUT=settings.out, INNER=settings.inner, STAGES=settings.num_stages,
            num_warps=settings.num_warps, num_stages=settings.num_stages, **self._target.launch(len(experts)),
        )  # fmt: skip
        return out


def fit_experts(
    by_rows: dict[int, ExpertsSettings], num_pairs: int, num_experts: int, dtype: torch.dtype
) -> ExpertsSettings:
    """Choose blocks that hold as many rows as an expert has pairs on average, if all have equally many."""
    average = num_pairs // num_experts
    rows = max((rows for rows in EXPERT_ROWS if rows <= average), default=EXPERT_ROWS[0])
    if dtype is torch.float32:  # no matrix units: operands are held in registers
        narrow = min(rows, 32)
        return by_rows[narrow]._replace(out=32, inner=32, num_warps=4, num_stages=1)
    return by_rows[rows]
