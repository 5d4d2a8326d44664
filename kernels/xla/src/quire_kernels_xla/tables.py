"""What an executor's device holds besides weights, and the small programs that change it outside of a step.

All of it has shapes that are fixed when the engine starts, and each change is a program of a fixed shape: a new request
takes its seat by one vector, new blocks and block copies come in batches that are padded with places that do not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from quire.execution.parts import MemoryPlan, Rows, SamplingTables
from quire.plan import StepPlan
from quire_kernels_xla import cache
from quire_kernels_xla.bridge import handle

BATCH = 32  # new blocks, or block copies, that one program takes
NOWHERE = np.iinfo(np.int32).max


class State(NamedTuple):
    """Arrays, or the handles in whose places they are put. Shapes as in `quire.execution.rows`, seeds as words."""

    caches: list[tuple[Any, Any]]  # for each layer, [num_blocks, Hk, B, D]
    tokens: Any
    blocks: Any
    sampling: SamplingTables


def make_handles(plan: MemoryPlan, cache_shape: Sequence[int], num_layers: int, rows: Rows) -> State:
    """Return the handles of everything that steps read and write."""
    kv_dtype = getattr(torch, plan.kv_dtype)
    settings = [handle(table.shape, table.dtype) for table in rows.sampling[:-1]]
    seeds = handle((*rows.sampling.seed.shape, 2), torch.int32)
    return State(
        [(handle(cache_shape, kv_dtype), handle(cache_shape, kv_dtype)) for _ in range(num_layers)],
        handle(rows.tokens.shape, torch.int32),
        handle(rows.blocks.shape, torch.int32),
        SamplingTables(*settings, seeds),
    )


def fill(shapes: Any, scratch: int) -> State:
    """Return a state of zeros, in which the scratch row has no block. A JAX function of nothing."""
    state: State = jax.tree.map(lambda item: jnp.zeros(item.shape, item.dtype), shapes)
    return state._replace(blocks=state.blocks.at[scratch].set(-1))


def seat_vector(rows: Rows, row: int) -> np.ndarray:
    """Return everything of a row as one vector of words: row, tokens, blocks, and the sampling settings."""
    settings = [table[row : row + 1] for table in rows.sampling]
    parts = [torch.tensor([row], dtype=torch.int32), rows.tokens[row], rows.blocks[row]]
    return torch.cat([*parts, *(item.view(torch.int32) for item in settings)]).numpy()


def seat(state: State, vector: jax.Array) -> State:
    """Put a row's words in their places."""
    num_tokens, num_blocks = state.tokens.shape[1], state.blocks.shape[1]
    row, tokens, blocks, settings = jnp.split(vector, (1, 1 + num_tokens, 1 + num_tokens + num_blocks))
    put, start = [], 0
    for table in state.sampling:
        entry = settings[start : start + max(1, table[0].size)]
        start += len(entry)
        put.append(table.at[row[0]].set(jax.lax.bitcast_convert_type(entry, table.dtype).reshape(table.shape[1:])))
    return state._replace(
        tokens=state.tokens.at[row[0]].set(tokens),
        blocks=state.blocks.at[row[0]].set(blocks),
        sampling=SamplingTables(*put),
    )


def append_blocks(state: State, triples: jax.Array) -> State:
    """Put block ids in the tables: `triples` [BATCH, 3] of row, index and block id."""
    rows, indices, block_ids = triples.T
    return state._replace(blocks=state.blocks.at[rows, indices].set(block_ids, mode="drop"))


def copy_blocks(state: State, pairs: jax.Array) -> State:
    """Copy blocks in every layer: `pairs` [BATCH, 2] of source and target."""
    return state._replace(caches=[cache.block_copy(*layer, pairs) for layer in state.caches])


def new_blocks(plan: StepPlan) -> Iterator[np.ndarray]:
    """Yield a plan's new blocks in batches [BATCH, 3]."""
    yield from _batches(np.stack(plan.new_blocks, axis=1))


def copies(plan: StepPlan) -> Iterator[np.ndarray]:
    """Yield a plan's block copies in batches [BATCH, 2]; what is added reads some block and writes to none."""
    yield from _batches(plan.block_copies)


def _batches(entries: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(entries), BATCH):
        part = entries[start : start + BATCH].astype(np.int32)
        yield np.pad(part, ((0, BATCH - len(part)), (0, 0)), constant_values=NOWHERE)
