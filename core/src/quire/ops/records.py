"""The records of all ops: axes, dtypes, error models, inputs to judge with. `quire.ops.spec` states what each op means.

Kernels, layers and the conformance suite all start from these records; a new op is a new record.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quire.ops import cases, reference
from quire.ops.reference.cache import compose_qkv_rope_write
from quire.ops.reference.dense import compose_norm_linear
from quire.ops.reference.step import compose_draw_tokens
from quire.ops.spec import ErrorModel, Op

AXES: Mapping[str, str] = MappingProxyType(
    {
        "T": "num_tokens",
        "R": "num_rows",
        "H": "hidden_size",
        "Hq": "num_heads",
        "Hk": "num_kv_heads",
        "D": "head_dim",
        "V": "vocab_size",
        "I": "intermediate_size",
        "K": "in_features",
        "N": "out_features",
        "E": "num_experts",
        "P": "num_positions",
        "k": "top_k",
        "n": "num_pairs",
    }
)
"""What the axis letters stand for; the names that have a value when a model is built are attributes of requests too."""

FLOATS = ("float32", "bfloat16", "float16")
CACHE = ("num_kv_heads", "head_dim", "block_size", "kv_dtype")
EXACT = ErrorModel(exact=True)


def _axes(letters: str) -> dict[str, str]:
    return {letter: AXES[letter] for letter in letters.split()}


OPS: tuple[Op, ...] = (
    Op(
        "embedding",
        reference.embedding,
        _axes("T V H"),
        FLOATS,
        cases.embedding_cases,
        EXACT,
        attributes=("vocab_size", "hidden_size"),
    ),
    Op(
        "rms_norm",
        reference.rms_norm,
        _axes("T H"),
        FLOATS,
        cases.rms_norm_cases,
        attributes=("hidden_size",),
    ),
    Op(
        "add_rms_norm",
        reference.add_rms_norm,
        _axes("T H"),
        FLOATS,
        cases.add_rms_norm_cases,
        scratch=("x", "residual"),
        attributes=("hidden_size",),
    ),
    Op(
        "rope",
        reference.rope,
        _axes("T Hq Hk D P"),
        FLOATS,
        cases.rope_cases,
        scratch=("query", "key"),
        attributes=("num_heads", "num_kv_heads", "head_dim", "rotary_dim"),
    ),
    Op(
        "kv_write",
        reference.kv_write,
        _axes("T Hk D"),
        FLOATS,
        cases.kv_write_cases,
        EXACT,
        mutates=("key_cache", "value_cache"),
        attributes=CACHE,
    ),
    Op(
        "paged_attention",
        reference.paged_attention,
        _axes("T R Hq Hk D"),
        FLOATS,
        cases.paged_attention_cases,
        attributes=("num_heads", *CACHE, "window", "soft_cap", "sinks"),
    ),
    Op(
        "qkv_rope_write",
        reference.qkv_rope_write,
        _axes("T Hq Hk D P"),
        FLOATS,
        cases.qkv_rope_write_cases,
        mutates=("key_cache", "value_cache"),
        scratch=("qkv",),
        compose=compose_qkv_rope_write,
        attributes=("num_heads", *CACHE, "rotary_dim", "qk_norm"),
    ),
    Op(
        "silu_and_mul",
        reference.silu_and_mul,
        _axes("T I"),
        FLOATS,
        cases.gated_cases("silu_and_mul"),
        attributes=("intermediate_size",),
    ),
    Op(
        "gelu_and_mul",
        reference.gelu_and_mul,
        _axes("T I"),
        FLOATS,
        cases.gated_cases("gelu_and_mul"),
        attributes=("intermediate_size",),
    ),
    Op(
        "gelu_tanh_and_mul",
        reference.gelu_tanh_and_mul,
        _axes("T I"),
        FLOATS,
        cases.gated_cases("gelu_tanh_and_mul"),
        attributes=("intermediate_size",),
    ),
    Op(
        "linear",
        reference.linear,
        _axes("T K N"),
        FLOATS,
        cases.linear_cases,
        attributes=("in_features", "out_features", "bias", "tied"),
    ),
    Op(
        "norm_linear",
        reference.norm_linear,
        _axes("T K N"),
        FLOATS,
        cases.norm_linear_cases,
        scratch=("x", "residual"),
        compose=compose_norm_linear,
        attributes=("in_features", "out_features", "bias", "activation"),
    ),
    Op(
        "between_attentions",
        reference.between_attentions,
        _axes("T H I Hq Hk D P"),
        FLOATS,
        cases.between_attentions_cases,
        mutates=("key_cache", "value_cache"),
        scratch=("residual",),
        attributes=(
            "num_heads",
            *CACHE,
            "hidden_size",
            "intermediate_size",
            "activation",
            "bias",
            "rotary_dim",
            "qk_norm",
        ),
        optional=True,
    ),
    Op(
        "moe",
        reference.moe,
        _axes("T H I E k"),
        FLOATS,
        cases.moe_cases,
        attributes=("num_experts", "top_k", "hidden_size", "intermediate_size"),
    ),
    Op(
        "block_copy",
        reference.block_copy,
        _axes("Hk D n"),
        FLOATS,
        cases.block_copy_cases,
        EXACT,
        mutates=("key_cache", "value_cache"),
        attributes=CACHE,
    ),
    Op(
        "apply_penalties",
        reference.apply_penalties,
        _axes("R V"),
        ("float32",),
        cases.apply_penalties_cases,
        scratch=("logits",),
        attributes=("vocab_size",),
    ),
    Op(
        "sample",
        reference.sample,
        _axes("R V"),
        FLOATS,
        cases.sample_cases,
        EXACT,
        attributes=("vocab_size",),
    ),
    Op(
        "gather_step",
        reference.gather_step,
        _axes("T R"),
        ("float32",),
        cases.gather_step_cases,
        EXACT,
        attributes=("block_size",),
    ),
    Op(
        "select_rows",
        reference.select_rows,
        _axes("T H"),
        FLOATS,
        cases.select_rows_cases,
        EXACT,
        attributes=("hidden_size",),
    ),
    Op(
        "draw_tokens",
        reference.draw_tokens,
        _axes("V"),
        FLOATS,
        cases.draw_tokens_cases,
        EXACT,
        mutates=("tokens",),
        compose=compose_draw_tokens,
        attributes=("vocab_size",),
    ),
)
