"""The TPU's attention in Pallas's interpreter, against its record, and how tokens are laid out in tiles."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from quire.ops.check import judge
from quire.ops.records import OPS
from quire_kernels_xla import pallas
from quire_kernels_xla.bridge import to_array, to_host

OP = next(op for op in OPS if op.name == "paged_attention")
LABELS = (
    "decode, groups of 7",
    "prefill",
    "chunk",
    "mixed, padding tokens",
    "padding rows of one token",
    "blocks of 32",
    "window of 7",
    "soft cap",
    "bfloat16 cache",
    "long",
)
CASES = [case for case in OP.cases("float32", 0) if case.label in LABELS]


def interpreted(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    """Run with small tiles and steps, so that a row takes several of both."""
    assert sinks is None, "sinks are the portable kernel's"
    tensors = (query, key_cache, value_cache, batch.query_start, batch.seq_lens, batch.block_table)
    arrays = [jnp.asarray(to_array(tensor)) for tensor in tensors]
    decode = batch.max_query_len == 1 and len(query) == len(batch.seq_lens)
    sizes = {"tile": 8, "step_tokens": 32, "interpret": True}
    asked = {"scale": scale, "window": window, "soft_cap": soft_cap, "decode": decode}
    return to_host(jax.jit(partial(pallas.paged_attention, **asked, **sizes))(*arrays))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_it_is_as_right_as_the_reference(case):
    verdict = judge(OP, case, interpreted)
    assert verdict.ok, verdict


def test_every_label_names_a_case():
    assert {case.label for case in CASES} == set(LABELS)


def test_a_tile_holds_tokens_of_one_row():
    query_start, seq_lens = jnp.array([0, 5, 5, 6, 9]), jnp.array([9, 3, 1, 0])
    tiles = pallas.make_tiles(query_start, seq_lens, num_tokens=12, tile=4)
    assert tiles.rows.tolist()[:3] == [0, 0, 2]
    assert tiles.first.tolist()[:3] == [4, 8, 0]
    assert tiles.counts.tolist() == [4, 1, 1, 0, 0, 0, 0], "a row of padding has no tile"
    assert tiles.tokens.tolist()[:12] == [0, 1, 2, 3, 4, 12, 12, 12, 5, 12, 12, 12]
