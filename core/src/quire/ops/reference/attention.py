"""Causal attention of ragged rows over paged keys and values (PagedAttention, Kwon et al. 2023)."""

from __future__ import annotations

from itertools import pairwise

import torch

from quire.ops.reference.precision import wide
from quire.ops.spec import AttentionBatch

QUERY_TILE = 256  # queries scored at once; bounds the score matrix of a long prompt


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: AttentionBatch,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return attention [T, Hq, D] of query [T, Hq, D], in query's dtype; the caches' dtype may be another.

    Reads only the first ``ceil(seq_len / block_size)`` entries of a row's block table and only its first `seq_len`
    slots. Tokens that belong to no row come out as zeros. Scores are computed in float32 or wider.
    """
    out = query.new_zeros(query.shape)
    rows = zip(pairwise(batch.query_start.tolist()), batch.seq_lens.tolist(), batch.block_table, strict=True)
    for (start, end), seq_len, blocks in rows:
        if start == end:
            continue
        keys = _gather(key_cache, blocks, seq_len, query.dtype)
        values = _gather(value_cache, blocks, seq_len, query.dtype)
        for first in range(start, end, QUERY_TILE):
            last = min(first + QUERY_TILE, end)
            positions = torch.arange(seq_len - end + first, seq_len - end + last, device=query.device)
            visible = _visible(positions, seq_len, window)
            out[first:last] = _attend(query[first:last], keys, values, visible, scale, soft_cap, sinks)
    return out


def _gather(cache: torch.Tensor, blocks: torch.Tensor, seq_len: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a row's keys or values, [Hk, seq_len, D]."""
    num_blocks = -(-seq_len // cache.shape[2])
    pages = cache[blocks[:num_blocks].long()]
    return pages.transpose(0, 1).flatten(1, 2)[:, :seq_len].to(wide(dtype))


def _visible(positions: torch.Tensor, seq_len: int, window: int | None) -> torch.Tensor:
    """Return which keys [n, seq_len] each query position may see."""
    distance = positions[:, None] - torch.arange(seq_len, device=positions.device)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads = keys.shape[0]
    grouped = query.to(keys.dtype).view(num_tokens, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)  # [Hk, G, n, D]
    scores = grouped @ keys[:, None].mT * scale
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    scores = scores.masked_fill(~visible, float("-inf"))
    out = _softmax(scores, sinks) @ values[:, None]
    return out.permute(2, 0, 1, 3).reshape(num_tokens, num_heads, head_dim).to(query.dtype)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Return the weights of scores [Hk, G, n, seq_len]; a sink takes its share and gives nothing back."""
    if sinks is None:
        return scores.softmax(-1)
    num_kv_heads, group, num_tokens, _ = scores.shape
    sink = sinks.to(scores.dtype).view(num_kv_heads, group, 1, 1).expand(-1, -1, num_tokens, -1)
    return torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
