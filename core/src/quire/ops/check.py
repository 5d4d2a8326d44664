"""Judge a kernel: is it as right as the reference is in the kernel's own dtype?

The oracle is the reference in float64. A kernel's largest error may be a few times (`ErrorModel.ratio`) that of the
reference run in the kernel's dtype, or of one unit in the last place of the output's scale, if that is more: so no
tolerance is typed, and none hides a wrong mask. Exact ops must agree with the reference bit for bit. Written arguments
are compared like outputs, and arguments that are neither `mutates` nor `scratch` must come back as they were.

Used by the tests of every kernel and by the conformance suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from quire.ops.spec import Op, OpCase


class Verdict(NamedTuple):
    """How a kernel did on one case. Errors are the largest absolute ones of the output that did worst."""

    op: str
    case: str
    dtype: str
    error: float
    reference_error: float
    ratio: float
    ok: bool
    note: str = ""  # what is wrong, where a number cannot say it

    def __str__(self) -> str:
        state = "ok" if self.ok else "WRONG"
        figures = f"error {self.error:.3g}, reference's {self.reference_error:.3g}, ratio {self.ratio:.3g}"
        return f"{state}: {self.op} [{self.case}] {self.dtype}: {figures}{'; ' if self.note else ''}{self.note}"


class Difference(NamedTuple):
    """One output's largest error, what the reference's is, and what is wrong besides."""

    error: float
    reference_error: float
    note: str = ""

    @property
    def ratio(self) -> float:
        if self.error == 0:
            return 0.0
        return self.error / self.reference_error if self.reference_error else float("inf")


def judge(
    op: Op, case: OpCase, kernel: Callable[..., Any], device: torch.device | None = None, ratio: float | None = None
) -> Verdict:
    """Run `kernel` on a case, on `device` if given, and compare. `ratio` overrides the record's bound.

    Inputs are cloned, so a case can be judged many times. The references run where the case was made, on the CPU.
    Raises what the kernel raises.
    """
    given = clone_inputs(case.inputs, device)
    actual = {name: tensor.cpu() for name, tensor in run_op(op, kernel, given).items()}
    expected = run_op(op, op.reference, clone_inputs(case.inputs))
    oracle = expected if op.error.exact else run_op(op, op.reference, _widen(clone_inputs(case.inputs)))
    differences = [*_compare(op, case, actual, expected, oracle), *_touched(op, case, given)]
    worst = max(differences, key=lambda item: item.ratio)
    bound = 0.0 if op.error.exact else ratio or op.error.ratio
    dtype = case.request.dtype
    return Verdict(op.name, case.label, dtype, *worst[:2], worst.ratio, worst.ratio <= bound, worst.note)


def judge_all(
    op: Op,
    kernel: Callable[..., Any],
    dtype: str,
    seed: int = 0,
    device: torch.device | None = None,
    serves: Callable[[OpCase], bool] = lambda case: True,
) -> Iterator[Verdict]:
    """Judge every case of an op in one dtype that the kernel `serves`."""
    return (judge(op, case, kernel, device) for case in op.cases(dtype, seed) if serves(case))


def run_op(op: Op, function: Callable[..., Any], inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Run an op's kernel as the engine does; return its outputs and written arguments by name."""
    with torch.inference_mode():
        returned = function(**inputs)
    outputs = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
    named = {f"output {index}": output for index, output in enumerate(outputs)}
    return {**named, **{name: inputs[name] for name in op.mutates}}


def _compare(
    op: Op,
    case: OpCase,
    actual: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    oracle: Mapping[str, torch.Tensor],
) -> Iterator[Difference]:
    if actual.keys() != expected.keys():
        yield _wrong(f"gave {list(actual)}, not {list(expected)}")
        return
    for name, output in actual.items():
        count = None if name in op.mutates else case.num_valid
        yield _difference(name, output, expected[name], oracle[name], count)


def _difference(
    name: str, actual: torch.Tensor, expected: torch.Tensor, oracle: torch.Tensor, count: int | None
) -> Difference:
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return _wrong(f"{name} is {list(actual.shape)} {actual.dtype}, not {list(expected.shape)} {expected.dtype}")
    actual, expected, oracle = actual[:count], expected[:count], oracle[:count]
    error, reference_error = _largest_error(actual, oracle), _largest_error(expected, oracle)
    if expected.is_floating_point():
        oracle = _comparable(oracle)
        scale = oracle[oracle.isfinite()].abs()
        unit = torch.finfo(expected.dtype).eps * (float(scale.max()) if scale.numel() else 0.0)
        reference_error = max(reference_error, unit)
    return Difference(error, reference_error, f"in {name}")


def _largest_error(actual: torch.Tensor, oracle: torch.Tensor) -> float:
    """Return the largest difference; where one has NaN or infinity and the other has not the same, it is infinite."""
    if not actual.numel():
        return 0.0
    actual, oracle = _comparable(actual), _comparable(oracle)
    same = (actual == oracle) | (actual.isnan() & oracle.isnan())
    error = (actual.double() - oracle.double()).abs().masked_fill(same, 0.0)
    return float(error.nan_to_num(float("inf")).max())


def _comparable(x: torch.Tensor) -> torch.Tensor:
    """Widen what has 8 bits: torch compares no such numbers."""
    return x.float() if x.is_floating_point() and x.itemsize == 1 else x


def _touched(op: Op, case: OpCase, after: Mapping[str, Any]) -> Iterator[Difference]:
    """Report arguments that a kernel had no right to write."""
    before = dict(_tensors(case.inputs))
    for name, tensor in _tensors(after):
        if name.split(".")[0] not in (*op.mutates, *op.scratch) and _largest_error(tensor.cpu(), before[name]) > 0:
            yield _wrong(f"wrote to argument {name}")


def _wrong(note: str) -> Difference:
    return Difference(float("inf"), 0.0, note)


def _tensors(inputs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of the inputs by name, those inside a NamedTuple too."""
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            yield name, value
        elif hasattr(value, "_asdict"):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _tensors(value._asdict()))


def _map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if hasattr(value, "_replace"):
        return value._replace(**{name: _map_tensors(item, function) for name, item in value._asdict().items()})
    return value


def clone_inputs(inputs: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """Copy every tensor of a case, to `device` if given; strides stay, for kernels must bear strided views."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
        storage = tensor.as_strided((size,), (1,))
        moved = storage.to(device or tensor.device, copy=True)
        return moved.as_strided(tensor.shape, tensor.stride(), 0)

    return {name: _map_tensors(value, copy) for name, value in inputs.items()}


def _widen(inputs: dict[str, Any]) -> dict[str, Any]:
    def widen(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return {name: _map_tensors(value, widen) for name, value in inputs.items()}
