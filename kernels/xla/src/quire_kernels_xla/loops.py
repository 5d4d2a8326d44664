"""Loops, and programs without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def fold(step: Callable[[Any, Any], Any], state: Any, items: Any, unroll: bool) -> Any:
    """Return `step(state, item)` after the last of `items`, arrays that are taken apart along their first axis.

    `unroll` leaves no loop in the program; the `unroll` of JAX's scan leaves one where there is a single item.
    """
    if not unroll:
        return jax.lax.scan(lambda carried, item: (step(carried, item), None), state, items)[0]
    for index in range(jax.tree.leaves(items)[0].shape[0]):
        state = step(state, jax.tree.map(lambda array: array[index], items))  # noqa: B023, used at once
    return state
