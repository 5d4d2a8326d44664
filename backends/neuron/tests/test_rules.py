"""The checker: what passes, and that each rule refuses its negative control."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quire.errors import BackendError
from quire_kernels_xla import attention, sampling
from quire_neuron.rules import check

X = np.ones((4, 8), np.float32)


def text(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).as_text()


def test_plain_arithmetic_passes():
    check(text(lambda x: jax.nn.softmax(x @ x.T).astype(jnp.bfloat16), X))


@pytest.mark.parametrize(
    "function, named",
    [
        (lambda x: jnp.sort(x), "stablehlo.sort"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + i, x), "stablehlo.while"),
        (lambda x: jax.lax.dynamic_slice(x, (x[0, 0].astype(int), 0), (1, 8)), "stablehlo.dynamic_slice"),
        (lambda x: jnp.argmax(x, -1), "a reduction of several operands"),
        (lambda x: jax.lax.top_k(x, 2), "top_k"),
        (lambda x: jax.lax.erf_inv(x), "erf_inv"),
        (lambda x: jnp.prod(x) + x.astype(jnp.int16).sum(), "dtype i16"),
    ],
    ids=["sort", "loop", "dynamic slice", "reduction of pairs", "top_k", "erf_inv", "int16"],
)
def test_what_the_compiler_would_refuse_is_named(function, named):
    with pytest.raises(BackendError, match=named):
        check(text(function, X))


def test_64_bits_are_refused():
    with jax.enable_x64(True), pytest.raises(BackendError, match="dtype f64"):
        check(text(lambda x: jnp.asarray(x, jnp.float64) * 2, X))


def test_the_kernels_pass_without_loops_and_not_with():
    caches = (jnp.ones((40, 2, 16, 8)),) * 2
    table = jnp.zeros((1, 20), jnp.int32)

    def attend(unroll):
        return lambda query: attention.paged_attention(
            query,
            *caches,
            jnp.array([0, 4]),
            jnp.array([9]),
            table,
            None,
            scale=1.0,
            window=None,
            soft_cap=None,
            unroll=unroll,
        )

    query = jnp.ones((4, 4, 8))
    check(text(attend(True), query))
    with pytest.raises(BackendError, match="stablehlo.while"):
        check(text(attend(False), query))


def test_the_draw_passes_without_loops():
    row = jnp.ones(4)
    words = jnp.ones((4, 2), jnp.int32)
    check(text(lambda x: sampling.sample(x, row, words[:, 0], row, row, words, words, unroll=True), X))
