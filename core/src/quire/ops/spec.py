"""What an op is: one record each, the single source for kernels, layers and the conformance suite.

The ops and their signatures (T tokens, R rows, Hq/Hk query/KV heads, D head_dim, V vocabulary, I intermediate):

- ``embedding(ids [T] int64, weight [V, H]) -> [T, H]``
- ``rms_norm(x [T, H], weight [H], eps) -> [T, H]``; normalises the last axis, so ``[T, Hq, D]`` works too
- ``add_rms_norm(x [T, H], residual [T, H], weight [H], eps) -> (normed, residual + x)``
- ``rope(query [T, Hq, D], key [T, Hk, D], positions [T], cos_sin [P, rotary_dim]) -> (query, key)``; halves are rotated
  against each other (NeoX order); `cos_sin[p]` holds `rotary_dim/2` cosines, then as many sines, float32; dims
  past `rotary_dim` pass through.
- ``kv_write(key [T, Hk, D], value [T, Hk, D], key_cache, value_cache, slots [T])``; slot = block * block_size + offset;
  a negative slot is padding and is not written. Caches are canonical views ``[num_blocks, Hk, block_size, D]``; one of
  float8_e4m3fn takes ±448 for what is larger.
- ``paged_attention(query [T, Hq, D], key_cache, value_cache, batch: AttentionBatch, scale, window, soft_cap, sinks)
  -> [T, Hq, D]``: causal attention of ragged rows over paged KV (PagedAttention, Kwon et al. 2023). Query token i of a
  row with n query tokens stands at position ``seq_len - n + i`` and sees keys at positions ≤ its own, and with a
  `window` w only the last w of them (itself included). `soft_cap` c maps scores s to ``c * tanh(s / c)``. `sinks` [Hq]
  adds one logit per head to the softmax's denominator. The step's own keys have been written before.
- ``qkv_rope_write(qkv [T, (Hq + 2 Hk) * D], positions, cos_sin, q_norm [D] | None, k_norm [D] | None, eps, key_cache,
  value_cache, slots) -> query [T, Hq, D]``: split, optionally norm each head of q and k, rope, write KV. Composite.
- ``silu_and_mul(x [T, 2 I]) -> [T, I]``: ``silu(x[:, :I]) * x[:, I:]``
- ``gelu_and_mul(x [T, 2 I]) -> [T, I]``: exact GELU; ``gelu_tanh_and_mul``: the tanh approximation
- ``linear(x [T, K], weight [N, K], bias [N] | None) -> [T, N]``; `weight` is what a WeightTransform made of it, if any
- ``norm_linear(x [T, K], residual [T, K] | None, norm_weight [K], eps, weight [N, K], bias [N] | None, activation) ->
  (y, residual + x)``: the norm of that sum (of x alone, without a residual), then linear, then the op that
  `activation` names ("silu_and_mul", …; None: none, and y is [T, N], otherwise [T, N / 2]). Composite.
- ``between_attentions(attended [T, Hq * D], residual [T, H], output_weight [H, Hq * D], mlp_norm [H], gate_up_weight
  [2 I, H], down_weight [H, I], activation, attention_norm [H], qkv_weight [(Hq + 2 Hk) * D, H], qkv_bias [(Hq + 2 Hk) *
  D] | None, eps, positions, cos_sin, q_norm [D] | None, k_norm [D] | None, key_cache, value_cache, slots) -> (query
  [T, Hq, D], residual [T, H])``: all from one layer's attention to the next one's, for layers that have no more than
  linear, norm_linear, linear, norm_linear and qkv_rope_write. The caches are the next layer's, the residual that comes
  out is the new sum. Optional.
- ``moe(x [T, H], weights [T, k] float32, experts [T, k] int64, gate_up [E, 2 I, H], down [E, H, I]) -> [T, H]``: SwiGLU
- ``block_copy(key_cache, value_cache, pairs [n, 2] int64)``: block `pairs[i, 1]` becomes a copy of `pairs[i, 0]`
- ``apply_penalties(logits [R, V] float32, prompt_mask [R, V] bool, output_counts [R, V] int32, presence [R], frequency
  [R], repetition [R]) -> logits``
- ``sample(logits [R, V], temperature [R], top_k [R] int32, top_p [R], min_p [R], seeds [R] int64, positions [R] int64)
  -> [R] int64``: logits are widened to float32; temperature 0 is argmax (lowest id wins a tie); otherwise the
  exponential race (Gumbel-max) with Philox noise at counter (token id, position) under key `seed`, so a draw depends on
  nothing but these (`quire.ops.philox` defines it bit by bit). `top_k` 0, `top_p` 1, `min_p` 0 are off.
- ``gather_step(tokens [S, L] int32, blocks [S, B] int32, token_rows [T] int32, positions [T] int32, rows [R] int32,
  block_size, num_blocks) -> (token_ids [T], positions [T], slots [T], block_table [R, num_blocks] int32)``, int64 where
  nothing is said: what a step reads of the persistent rows. A block of -1 gives a negative slot.
- ``select_rows(hidden [T, H], index [S] int32) -> (selected [S, H], finite [S] bool)``
- ``draw_tokens(logits [S, V], temperature, top_k, top_p, min_p, seeds, rows [S] int32, positions [S] int32,
  tokens) -> [S] int64``: `sample` with the settings that the tables hold for `rows`; each token is put into `tokens`
  [seats, L] at its row and position (padding shares one row, whose tokens do not matter). Composite.

What every kernel may rely on, and must bear:

- The last axis is contiguous; token and head axes may be strided (query, key and value are views of a fused
  projection), and so may every axis of a cache but the last.
- Cache slots past `seq_len` and blocks that no row owns may hold anything, NaN included; block table entries past
  ``ceil(seq_len / block_size)`` are garbage and may not be ids at all. None of it may reach a result.
- A row without tokens may have any `seq_len` of 0 or more. Tokens past ``query_start[-1]`` and those of a row whose
  `seq_len` is 0 are padding: what comes out for them does not matter.
- In `block_copy` no block is a target twice, and no target is a source.
- Only arguments that the record lists as `mutates` or `scratch` may be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from quire.backend.contract import KernelRequest


class AttentionBatch(NamedTuple):
    """Where each row of a ragged batch stands, as device tensors, and the host's upper bounds.

    Row r owns query tokens ``query_start[r] … query_start[r + 1] - 1``; rows past the last real one are padding:
    their `seq_len` is 0, and they own no query token, or in a decode bucket one, whose output is zero or never read.
    """

    query_start: torch.Tensor  # [num_rows + 1] int32
    seq_lens: torch.Tensor  # [num_rows] int32, this step's tokens included
    block_table: torch.Tensor  # [num_rows, max_blocks] int32
    slots: torch.Tensor  # [num_tokens] int64, where this step's keys and values go; negative: padding
    max_query_len: int
    max_seq_len: int


class ErrorModel(NamedTuple):
    """How wrong a kernel may be: its largest error against the fp64 reference, over the largest error of the reference
    run in the kernel's own dtype (or one unit in the last place of the output's scale, if that is more), is at most
    `ratio`. `exact` ops must agree bit for bit."""

    ratio: float = 4.0
    exact: bool = False


class OpCase(NamedTuple):
    """One input: keyword arguments for the op, and the request a layer would make for it. Where some tokens are
    padding, only the first `num_valid` entries of each output's first axis count."""

    label: str
    request: KernelRequest
    inputs: dict[str, Any]
    num_valid: int | None = None


Bind = Callable[["KernelRequest"], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Op:
    """The record of one op.

    `reference` is pure torch, right in any dtype on any device, and is also run in fp64 as the oracle. `cases(dtype,
    seed)` yields inputs over awkward shapes (1, a prime, a non-multiple). `mutates` names arguments that are written,
    `scratch` those that a kernel may use up (so the caller must not read them afterwards).
    `attributes` are the names that a request for this op may carry.
    `compose(request, bind)`, for composites, builds the op from other bound ops; it serves when no provider but the
    reference offers the whole. `optional` ops stand for several others, and are for backends that make fewer or shorter
    kernels of the whole: where none does, layers call the others.
    """

    name: str
    reference: Callable[..., Any]
    axes: Mapping[str, str]
    dtypes: tuple[str, ...]
    cases: Callable[[str, int], Iterator[OpCase]]
    error: ErrorModel = ErrorModel()
    mutates: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    compose: Callable[[KernelRequest, Bind], Callable[..., Any]] | None = None
    attributes: tuple[str, ...] = field(default=())
    optional: bool = False
