"""A mixture of experts in which every expert computes every token: no shape depends on what the router chose."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from quire_kernels_xla.loops import fold


def moe(
    x: jax.Array,
    weights: jax.Array,
    experts: jax.Array,
    gate_up: jax.Array,
    down: jax.Array,
    *,
    unroll: bool = False,
) -> jax.Array:
    """Return the weighted sum [T, H] of each token's SwiGLU experts; arguments as in `quire.ops.spec`.

    Costs E / k times what the chosen experts alone would.
    """

    def add(total: jax.Array, expert: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        index, gate_up_weight, down_weight = expert
        gate, up = jnp.split((x @ gate_up_weight.T).astype(jnp.float32), 2, axis=-1)
        hidden = (jax.nn.silu(gate) * up).astype(x.dtype)
        share = jnp.where(experts == index, weights, 0).sum(-1, keepdims=True)
        out = (hidden @ down_weight.T).astype(jnp.float32) * share
        # A token that did not choose this expert may overflow in it.
        return total + jnp.where((experts == index).any(-1, keepdims=True), out, 0)

    order = jnp.arange(gate_up.shape[0], dtype=experts.dtype)
    total = fold(add, jnp.zeros(x.shape, jnp.float32), (order, gate_up, down), unroll)
    return total.astype(x.dtype)
