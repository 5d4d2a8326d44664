"""What Neuron's compiler takes, held against the StableHLO text of every program before it is compiled.

`PUBLISHED` is from AWS's list of XLA operators (Neuron documentation, "neuron-cc list-operators --framework XLA"), with
its notes: reductions by add, max, min and mul alone, of one operand. `ASSUMED` are operations that the programs need
besides: plain arithmetic that the list, which is old, does not name. They are to be tried first on a chip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quire.errors import BackendError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PUBLISHED = _words(
    """
    abs add all_gather all_reduce and atan2 broadcast broadcast_in_dim ceil clamp compare concatenate constant convert
    cosine divide dot dot_general dynamic_update_slice exponential floor gather iota log maximum minimum multiply negate
    not pad power reduce reshape rsqrt scatter select shift_right_logical sign sine slice sqrt subtract tanh transpose
    """
)
ASSUMED = _words("bitcast_convert is_finite log_plus_one logistic or remainder return shift_left xor")
REDUCTIONS = _words("add maximum minimum multiply and or")  # the last two of truth values, where they are min and max
DTYPES = _words("f32 bf16 f16 i1 i8 ui8 i32 ui32")

OPERATION = re.compile(r"^\s*(?:%[^=]*= )?\"?(stablehlo|chlo|mhlo)\.(\w+)", re.MULTILINE)
REDUCE = re.compile(r"stablehlo\.reduce\(([^)]*)\)(?: applies stablehlo\.(\w+))?")
TENSOR = re.compile(r"tensor<(?:[0-9?]+x)*([a-z]+[0-9]*\w*)>")


def check(text: str) -> None:
    """Raise BackendError naming everything in a program that Neuron's compiler would refuse."""
    problems = sorted({*_operations(text), *_reductions(text), *_dtypes(text)})
    if problems:
        raise BackendError(f"Neuron's compiler would refuse this program: {'; '.join(problems)}")


def _operations(text: str) -> Iterator[str]:
    for dialect, name in set(OPERATION.findall(text)):
        if dialect != "stablehlo" or name not in PUBLISHED | ASSUMED:
            yield f"operation {dialect}.{name} is not on its list"


def _reductions(text: str) -> Iterator[str]:
    for operands, computation in REDUCE.findall(text):
        if not computation or operands.count("init:") > 1:
            yield "a reduction of several operands, or by a computation of its own"
        elif computation not in REDUCTIONS:
            yield f"a reduction by {computation}"


def _dtypes(text: str) -> Iterator[str]:
    for dtype in set(TENSOR.findall(text)) - DTYPES:
        yield f"dtype {dtype} is not on its list"
