"""Dependent launches (NVIDIA, compute capability 9 on): a kernel may start before the one ahead of it has ended.

Steps are made of kernels of a few microseconds, and a good part of each is its start and its end. A kernel that is
launched so begins when every program of the one ahead has called `start_next` or has ended; it must write nothing, and
read nothing that the one ahead has written, before `wait_for_inputs`. As `start_next` comes after `wait_for_inputs` in
each, all before the one ahead have ended by then: weights may be read, and what the step began with. Every program must
wait, those with nothing to do too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import triton
import triton.language as tl

Launch = Callable[[int], Mapping[str, Any]]
"""Gives the keywords of a kernel's launch, from the number of tokens in the step."""

MAX_DEPENDENT_TOKENS = 256  # more are products of the vendor's between kernels that are long anyway


def in_order(num_tokens: int) -> Mapping[str, Any]:
    """Start after all kernels ahead have ended."""
    return {"DEPENDENT": False}


def dependent(num_tokens: int) -> Mapping[str, Any]:
    """Start early in steps of so few tokens that starts and ends are a good part of them."""
    return {"DEPENDENT": True, "launch_pdl": True} if num_tokens <= MAX_DEPENDENT_TOKENS else in_order(num_tokens)


@triton.jit
def start_next(DEPENDENT: tl.constexpr):
    """Let the kernel after this one start, once all programs of this one have called."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr):
    """Wait until all kernels before this one have ended."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
