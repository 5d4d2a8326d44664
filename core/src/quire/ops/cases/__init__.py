"""Inputs that judge kernels: seeded, small, over awkward shapes (1, a prime, a non-multiple). Made on the CPU."""

from quire.ops.cases.attention import paged_attention_cases
from quire.ops.cases.cache import block_copy_cases, kv_write_cases, qkv_rope_write_cases
from quire.ops.cases.dense import embedding_cases, gated_cases, linear_cases, moe_cases, norm_linear_cases
from quire.ops.cases.layer import between_attentions_cases
from quire.ops.cases.norms import add_rms_norm_cases, rms_norm_cases, rope_cases
from quire.ops.cases.sampling import apply_penalties_cases, sample_cases
from quire.ops.cases.step import draw_tokens_cases, gather_step_cases, select_rows_cases

__all__ = [
    "add_rms_norm_cases",
    "apply_penalties_cases",
    "between_attentions_cases",
    "block_copy_cases",
    "draw_tokens_cases",
    "embedding_cases",
    "gated_cases",
    "gather_step_cases",
    "kv_write_cases",
    "linear_cases",
    "moe_cases",
    "norm_linear_cases",
    "paged_attention_cases",
    "qkv_rope_write_cases",
    "rms_norm_cases",
    "rope_cases",
    "sample_cases",
    "select_rows_cases",
]
