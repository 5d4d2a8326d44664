"""Every kernel, through XLA's CPU device, against its record."""

from __future__ import annotations

import jax
import pytest
import torch

from quire.ops.check import judge
from quire.ops.philox import random_words
from quire.ops.records import OPS
from quire_kernels_xla import attention, sampling
from quire_kernels_xla.registry import XlaKernels, words

BY_NAME = {op.name: op for op in OPS}
LABELS = {
    "paged_attention": (
        "one token",
        "mixed, groups of 7",
        "mixed, padding tokens",
        "padding rows of one token",
        "blocks of 1",
        "window, soft cap and sinks",
        "long",
    ),
    "sample": ("R=5 V=1000", "ties", "narrow filters", "extremes"),
}
"""Where a compilation for each case would take long; the conformance suite has them all."""


def cases(dtype: str):
    for name in ("kv_write", "paged_attention", "moe", "block_copy", "sample"):
        for case in BY_NAME[name].cases(dtype, 0):
            if name not in LABELS or any(label in case.label for label in LABELS[name]):
                yield pytest.param(BY_NAME[name], case, id=f"{name}-{case.label}")


def find_cpu():
    return jax.local_devices(backend="cpu")[0]


@pytest.mark.parametrize("op, case", list(cases("float32")))
def test_a_kernel_is_as_right_as_the_reference(op, case):
    verdict = judge(op, case, getattr(XlaKernels(find_cpu), op.name))
    assert verdict.ok, verdict


@pytest.mark.parametrize("op", ["paged_attention", "moe", "sample"])
def test_without_loops_a_kernel_is_as_right(op):
    case = list(BY_NAME[op].cases("float32", 0))[2]
    verdict = judge(BY_NAME[op], case, getattr(XlaKernels(find_cpu, unroll=True), op))
    assert verdict.ok, verdict


def test_bfloat16_is_computed_in_float32():
    op = BY_NAME["paged_attention"]
    case = next(case for case in op.cases("bfloat16", 0) if case.label == "mixed")
    verdict = judge(op, case, XlaKernels(find_cpu).paged_attention)
    assert verdict.ok, verdict


def test_noise_is_philox_word_by_word():
    seeds = torch.tensor([0, 1, -1, 2**62 + 12345])
    positions = torch.tensor([0, 7, 2**33 + 1, 2**31])
    found = sampling.random_words(words(seeds).numpy(), words(positions).numpy(), 1001)
    assert torch.equal(torch.from_numpy(jax.device_get(found).astype("int64")), random_words(seeds, positions, 1001))


def test_a_token_finds_its_row_past_rows_without_tokens():
    query_start = jax.numpy.array([0, 2, 2, 5, 5])
    seq_lens = jax.numpy.array([9, 4, 3, 0])
    tokens = attention.place_tokens(query_start, seq_lens, 7)
    assert tokens.rows.tolist()[:5] == [0, 0, 2, 2, 2]
    assert tokens.positions.tolist()[:5] == [7, 8, 0, 1, 2]
    assert tokens.num_visible.tolist() == [8, 9, 1, 2, 3, 0, 0], "padding sees nothing"


def test_a_row_with_nan_gives_some_token():
    logits = jax.numpy.array([[float("nan"), 1.0, 2.0], [1.0, 2.0, 2.0]])
    assert sampling.argmax(logits).tolist() == [2, 1], "and the first of equals wins elsewhere"
