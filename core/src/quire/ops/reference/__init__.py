"""The reference of every op: pure torch, right in any dtype on any device, and the oracle when run in float64.

Sums and transcendental functions are taken in float32 or wider, and a result is rounded once, to the dtype of the
input. Nothing here is tuned beyond what keeps tests quick.
"""

from quire.ops.reference.activations import gelu_and_mul, gelu_tanh_and_mul, silu_and_mul
from quire.ops.reference.attention import paged_attention
from quire.ops.reference.cache import block_copy, kv_write, qkv_rope_write
from quire.ops.reference.dense import embedding, linear, moe, norm_linear
from quire.ops.reference.layer import between_attentions
from quire.ops.reference.norms import add_rms_norm, rms_norm
from quire.ops.reference.rotary import rope
from quire.ops.reference.sampling import apply_penalties, sample
from quire.ops.reference.step import draw_tokens, gather_step, select_rows

__all__ = [
    "add_rms_norm",
    "apply_penalties",
    "between_attentions",
    "block_copy",
    "draw_tokens",
    "embedding",
    "gather_step",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "kv_write",
    "linear",
    "moe",
    "norm_linear",
    "paged_attention",
    "qkv_rope_write",
    "rms_norm",
    "rope",
    "sample",
    "select_rows",
    "silu_and_mul",
]
