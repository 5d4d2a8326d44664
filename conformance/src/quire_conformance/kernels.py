"""Kernels on the cases of their op: resolved as a layer would, weights repacked, run on the device, looked at."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from quire.ops import reference
from quire.ops.cases.float8 import FLOAT8, float8_cases
from quire.ops.check import Verdict, clone_inputs, judge, run_op
from quire.ops.spec import Op, OpCase
from quire.ops.table import COMPOSED
from quire_conformance.target import Target

REFERENCE = "reference"
REFERENCE_FOLDER = str(Path(reference.__file__).parent)


class ServedCase(NamedTuple):
    """A case, and the kernel that serves it as an engine would call it."""

    case: OpCase
    provider: str
    function: Callable[..., Any]


def served_cases(target: Target, op: Op, dtype: str, own_only: bool = False) -> Iterator[ServedCase]:
    """Yield the cases of an op with their kernels; `own_only` leaves out what the reference serves for another, and
    what is composed of kernels that are judged themselves."""
    others = {COMPOSED} if target.name == REFERENCE else {COMPOSED, REFERENCE}
    claimed = float8_cases(op.name, dtype) if FLOAT8 in target.caps.kv_dtypes else ()
    for case in (*op.cases(dtype, 0), *claimed):
        resolution = target.table.resolve(case.request)
        if own_only and resolution.provider in others:
            continue
        function = resolution.function
        if resolution.transform is not None:
            function = _with_repacked_weight(function, resolution.transform.function, case)
        yield ServedCase(case, resolution.provider, function)


def serves_any(target: Target, op: Op, dtype: str) -> bool:
    """Say whether the backend has a kernel of its own for any case of an op."""
    return any(target.table.serves(case.request) for case in op.cases(dtype, 0))


def judge_served(target: Target, op: Op, served: ServedCase) -> Verdict:
    """Judge one case; a kernel that raises is wrong, and says with what."""
    bound = error_bound(target, op, served.provider)
    try:
        return judge(op, served.case, served.function, target.device.torch_device, bound)
    except Exception as error:
        note = f"raised {type(error).__name__}: {error}"
        return Verdict(
            op.name, served.case.label, served.case.request.dtype, float("inf"), 0.0, float("inf"), False, note
        )


def error_bound(target: Target, op: Op, provider: str) -> float:
    """Return how large an error ratio may be: the record's bound, or the profile's; 0 for exact ops.

    What is composed of other ops may be as wrong as the loosest of them, so that a new composite op asks nothing new of
    a backend that was written before it.
    """
    if op.error.exact:
        return 0.0
    given = target.profile.error_ratio
    loosest = max((op.error.ratio, *given.values())) if provider == COMPOSED else op.error.ratio
    return given.get(op.name, loosest)


def outputs_of(target: Target, op: Op, served: ServedCase) -> dict[str, torch.Tensor]:
    """Return what a kernel puts out for a case: outputs and written arguments, on the host, padding left out."""
    inputs = clone_inputs(served.case.inputs, target.device.torch_device)
    outputs = run_op(op, served.function, inputs)
    valid = {name: None if name in op.mutates else served.case.num_valid for name in outputs}
    return {name: output[: valid[name]].cpu() for name, output in outputs.items()}


def reference_calls(target: Target, op: Op, served: ServedCase) -> set[str]:
    """Return the reference's functions that run while a kernel serves a case."""
    inputs = clone_inputs(served.case.inputs, target.device.torch_device)
    called: set[str] = set()

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(REFERENCE_FOLDER):
            called.add(f"the reference's {frame.f_code.co_name}")

    before = sys.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        run_op(op, served.function, inputs)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return called


def _with_repacked_weight(
    function: Callable[..., Any], transform: Callable[..., Any], case: OpCase
) -> Callable[..., Any]:
    def call(**inputs: Any) -> Any:
        # A copy: a transform may use up the weight that it is given.
        return function(**{**inputs, "weight": transform(inputs["weight"].clone(), case.request)})

    return call
