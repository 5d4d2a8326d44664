"""Level 2, continued: rows and blocks through the executor, whoever's tensors the bytes are."""

from __future__ import annotations

import pytest
import torch

from quire_conformance.claims import claims
from quire_conformance.regions import region_of
from quire_conformance.target import Target

pytestmark = claims("computes")


@claims("kernels")
@pytest.mark.parametrize("which", ["preferred", "last"])
def test_rows_and_blocks_behave_as_on_the_reference(target: Target, which: str) -> None:
    from quire_conformance.machine import run_machine

    run_machine(target, target.kv.block_sizes[0 if which == "preferred" else -1])


@claims("block_copy")
def test_block_copies_reach_keys_and_values_of_every_layer_and_nothing_else(target: Target) -> None:
    from quire_conformance.twins import Twins

    with Twins(target, target.block_size) as twins:
        row = twins.seat(2 * target.block_size)
        twins.compute({row: 2 * target.block_size - 1})
        before = twins.read(range(twins.num_blocks))
        source, free = twins.table(row)[0], twins.unused()
        twins.compute({row: 1}, copies=[(source, free)])
        for layer, (old, new) in enumerate(zip(before, twins.read(range(twins.num_blocks)), strict=True)):
            for name, was, now in zip(("keys", "values"), old, new, strict=True):
                assert torch.equal(now[free], was[source]), f"block_copy did not copy the {name} of layer {layer}"
                changed = region_of(was, now) - {free, *twins.table(row)}
                assert not changed, f"block_copy also changed the {name} of blocks {sorted(changed)} in layer {layer}"
