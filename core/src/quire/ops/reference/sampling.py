"""Penalties and the draw of the next token. `quire.ops.philox` defines the noise.

The order is vLLM's: penalties (and logit bias) come first, then temperature, min_p, top_k, top_p, then the draw.
Every filter is a threshold on the logit, so tokens with equal logits stay or go together and no sort order matters.
"""

from __future__ import annotations

import torch

from quire.ops.philox import gumbel_noise
from quire.ops.reference.precision import wide


def apply_penalties(
    logits: torch.Tensor,
    prompt_mask: torch.Tensor,
    output_counts: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    repetition: torch.Tensor,
) -> torch.Tensor:
    """Return logits [R, V] with repetition, then frequency and presence penalties applied; arguments as in the spec.

    Repetition divides positive and multiplies negative logits of tokens that stand in the prompt or the output (CTRL,
    Keskar et al. 2019); frequency and presence look at the output only, as OpenAI defines them.
    """
    seen = output_counts > 0
    factor = torch.where(prompt_mask | seen, repetition[:, None].to(logits.dtype), 1.0)
    logits = torch.where(logits > 0, logits / factor, logits * factor)
    logits = logits - frequency[:, None].to(logits.dtype) * output_counts
    return logits - presence[:, None].to(logits.dtype) * seen


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Return one token id [R] for each row of logits [R, V]; arguments as in the spec.

    A row of temperature 0 takes its largest logit. Another row draws ``argmax(logits / temperature + noise)`` among
    the tokens that pass its filters: the Gumbel-max form of a draw from their softmax. The lowest id wins a tie. A
    row with NaN gives some valid id.
    """
    logits = logits.to(wide(logits.dtype))
    tokens = logits.argmax(-1)  # torch takes the first of equals, and NaN for the largest
    rows = (temperature > 0).nonzero().flatten()
    if rows.numel():
        scaled = logits[rows] / temperature[rows, None].to(logits.dtype)
        survivors = mask_top_k_top_p(mask_min_p(scaled, min_p[rows]), top_k[rows], top_p[rows])
        noise = gumbel_noise(seeds[rows], positions[rows], logits.shape[1])
        tokens[rows] = (survivors + noise.to(logits.dtype)).argmax(-1)
    return tokens


def mask_min_p(scaled: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Keep tokens at least `min_p` [R] times as probable as the likeliest; others become -inf (Nguyen et al. 2024)."""
    threshold = scaled.amax(-1, keepdim=True) + min_p.to(scaled.dtype).log()[:, None]
    return scaled.masked_fill(scaled < threshold, float("-inf"))


def mask_top_k_top_p(scaled: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the `top_k` [R] largest, then of these the nucleus of mass `top_p` [R]; others become -inf.

    A token is in the nucleus (Holtzman et al. 2020) when the tokens above it hold less than `top_p` of the mass.
    """
    limited = ((top_k > 0) | (top_p < 1)).nonzero().flatten()
    if not limited.numel():
        return scaled
    part = scaled[limited]
    ranked = part.sort(-1, descending=True).values
    kth = _top_k_threshold(ranked, top_k[limited])
    ranked = ranked.masked_fill(ranked < kth, float("-inf"))
    threshold = torch.maximum(kth, _top_p_threshold(ranked, top_p[limited]))
    return scaled.index_copy(0, limited, part.masked_fill(part < threshold, float("-inf")))


def _top_k_threshold(ranked: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Return the smallest score [R, 1] that stays; `top_k` 0 keeps all."""
    vocab_size = ranked.shape[1]
    keep = torch.where(top_k > 0, top_k, vocab_size).clamp(max=vocab_size)
    return ranked.gather(1, keep.long()[:, None] - 1)


def _top_p_threshold(ranked: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return the smallest score [R, 1] that stays; `top_p` 1 keeps all, rounding or not."""
    mass = ranked.softmax(-1)
    above = mass.cumsum(-1) - mass
    keep = (above < top_p[:, None].to(mass.dtype)).sum(-1, keepdim=True).clamp(min=1)
    return ranked.gather(1, keep - 1).masked_fill(top_p[:, None] >= 1, float("-inf"))
