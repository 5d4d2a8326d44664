"""sample and apply_penalties."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire_kernels_triton.sampling_choose import choose_kernel
from quire_kernels_triton.sampling_scan import scan_kernel
from quire_kernels_triton.tuning import Target, settings_for

BLOCK = 1024
MAX_PARTS = 256


class Sample:
    """The ops sample and draw_tokens as callables for one GPU."""

    def __init__(self, target: Target) -> None:
        self._settings = settings_for(target.family).sample
        self._target = target

    def sample(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        min_p: torch.Tensor,
        seeds: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Return one token id [R] int64 for each row of logits [R, V]; see `quire.ops.spec`."""
        settings = (temperature, top_k, top_p, min_p, seeds)
        return self._run(logits, settings, positions, positions, None)

    def draw_tokens(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        min_p: torch.Tensor,
        seeds: torch.Tensor,
        rows: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """Draw with the settings of `rows` [S], and put each token into `tokens` at its row and position."""
        settings = (temperature, top_k, top_p, min_p, seeds)
        return self._run(logits, settings, rows, positions, tokens)

    def _run(
        self,
        logits: torch.Tensor,
        settings: tuple[torch.Tensor, ...],
        seats: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor | None,
    ) -> torch.Tensor:
        num_rows, vocab_size = logits.shape
        tuned, device = self._settings, logits.device
        out = torch.empty(num_rows, dtype=torch.int64, device=device)
        if not num_rows:
            return out
        num_tiles = triton.cdiv(vocab_size, tuned.tile)
        num_parts = self._num_parts(num_rows, num_tiles)
        best_scores, maxima, masses = (
            torch.empty(num_rows * width, dtype=torch.float32, device=device)
            for width in (num_parts, num_tiles, num_tiles)
        )
        best_tokens, lists = (
            torch.empty(num_rows * width, dtype=torch.int32, device=device) for width in (num_parts, num_tiles)
        )
        rows = (logits, *settings, seats, positions)
        launch = self._target.launch(num_rows)
        options = {"SEATED": tokens is not None, "TILES": tuned.tiles, "TILE": tuned.tile, **launch}
        scan_kernel[(num_rows, num_parts)](
            *rows, best_scores, best_tokens, maxima, masses, vocab_size, num_tiles, logits.stride(0),
            **options, num_warps=tuned.num_warps,
        )  # fmt: skip
        choose_kernel[(num_rows,)](
            *rows, best_scores, best_tokens, maxima, masses, lists, out, out if tokens is None else tokens,
            vocab_size, num_tiles, logits.stride(0), num_parts, 0 if tokens is None else tokens.stride(0),
            **options, PARTS=MAX_PARTS, TILES_PADDED=triton.next_power_of_2(num_tiles), num_warps=tuned.choose_warps,
        )  # fmt: skip
        return out

    def _num_parts(self, num_rows: int, num_tiles: int) -> int:
        wanted = triton.cdiv(self._target.num_processors * self._settings.programs_per_processor, num_rows)
        return max(1, min(wanted, triton.cdiv(num_tiles, self._settings.tiles), MAX_PARTS))


@triton.jit
def penalties_kernel(
    logits, prompt_mask, output_counts, presence, frequency, repetition,
    vocab_size, logits_stride, mask_stride, counts_stride, BLOCK: tl.constexpr,
):  # fmt: skip
    """Change BLOCK logits of one row in place."""
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = tokens < vocab_size
    values = tl.load(logits + row * logits_stride + tokens, mask=there)
    counts = tl.load(output_counts + row * counts_stride + tokens, mask=there, other=0)
    prompted = tl.load(prompt_mask + row * mask_stride + tokens, mask=there, other=0) != 0
    seen = counts > 0
    factor = tl.where(prompted | seen, tl.load(repetition + row), 1.0)
    values = tl.where(values > 0, tl.div_rn(values, factor), values * factor)
    values -= tl.load(frequency + row) * counts.to(tl.float32)
    values -= tl.load(presence + row) * seen.to(tl.float32)
    tl.store(logits + row * logits_stride + tokens, values, mask=there)


def apply_penalties(
    logits: torch.Tensor,
    prompt_mask: torch.Tensor,
    output_counts: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    repetition: torch.Tensor,
) -> torch.Tensor:
    """Apply repetition, frequency and presence penalties to logits [R, V] in place, and return them."""
    num_rows, vocab_size = logits.shape
    if num_rows:
        penalties_kernel[(num_rows, triton.cdiv(vocab_size, BLOCK))](
            logits, prompt_mask, output_counts, presence, frequency, repetition,
            vocab_size, logits.stride(0), prompt_mask.stride(0), output_counts.stride(0), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return logits
