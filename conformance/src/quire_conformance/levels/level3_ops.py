"""Level 3: every op, in every claimed dtype, by whichever kernel serves it, against the reference in float64."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quire.ops.check import Verdict
from quire.ops.records import OPS
from quire.ops.spec import Op
from quire_conformance.claims import claims
from quire_conformance.kernels import (
    REFERENCE,
    ServedCase,
    error_bound,
    judge_served,
    outputs_of,
    reference_calls,
    served_cases,
    serves_any,
)
from quire_conformance.target import Target

pytestmark = claims("kernels")
BY_NAME = {op.name: op for op in OPS}
NUM_THREADS, NUM_ROUNDS = 2, 6
WAIT_S = 60.0

Record = Callable[..., None]
Outputs = dict[str, torch.Tensor]


def parameters(target: Target, test: str) -> Iterator[tuple[str, list[object]]]:
    """Each test runs for every op in each dtype that the backend claims and the op has, for an optional one where the
    backend has a kernel of it."""
    pairs = [(op, dtype) for op in OPS for dtype in op.dtypes if dtype in target.caps.dtypes or len(op.dtypes) == 1]
    pairs = [(op, dtype) for op, dtype in pairs if not op.optional or serves_any(target, op, dtype)]
    yield "op_name,dtype", [pytest.param(op.name, dtype, id=f"{op.name}-{dtype}") for op, dtype in pairs]


def test_the_kernel_is_as_right_as_the_reference(target: Target, op_name: str, dtype: str, figure: Record) -> None:
    op = BY_NAME[op_name]
    verdicts = [(case.provider, judge_served(target, op, case)) for case in served_cases(target, op, dtype)]
    for provider, worst in _worst_by_provider(verdicts).items():
        figure(
            "error ratio",
            worst.ratio,
            op=op_name,
            dtype=dtype,
            provider=provider,
            bound=f"{error_bound(target, op, provider):g}",
        )
    wrong = [f"{provider}: {verdict}" for provider, verdict in verdicts if not verdict.ok]
    assert not wrong, _message(op, wrong)


def test_the_same_input_gives_the_same_bits(target: Target, op_name: str, dtype: str) -> None:
    if not target.caps.deterministic:
        return
    op = BY_NAME[op_name]
    for served in served_cases(target, op, dtype, own_only=True):
        first, second = (outputs_of(target, op, served) for _ in range(2))
        different = [name for name in first if not torch.equal(_bits(first[name]), _bits(second[name]))]
        assert not different, (
            f"{served.provider}'s {op_name} [{served.case.label}] gives other bits the second time in {different}, and "
            "caps.deterministic is claimed"
        )


def test_calls_from_two_threads_do_not_disturb_each_other(target: Target, op_name: str, dtype: str) -> None:
    op = BY_NAME[op_name]
    cases = list(served_cases(target, op, dtype, own_only=True))[-2:]
    expected = [outputs_of(target, op, served) for served in cases]
    for served, outputs, alone in _in_threads(target, op, cases, expected):
        different = [name for name in alone if not _same(outputs[name], alone[name], target.caps.deterministic)]
        assert not different, (
            f"{served.provider}'s {op_name} [{served.case.label}] is not thread-safe: with another call at the same "
            f"time {different} comes out otherwise"
        )


def test_no_kernel_hands_its_work_to_the_reference_in_silence(target: Target, op_name: str, dtype: str) -> None:
    op = BY_NAME[op_name]
    for served in served_cases(target, op, dtype, own_only=True):
        calls = reference_calls(target, op, served) if served.provider != REFERENCE else set()
        assert not calls, (
            f"{served.provider}'s {op_name} [{served.case.label}] calls {', '.join(sorted(calls))}: a silent fallback; "
            "let its constraint return the reason, and the reference serves in the open"
        )


def _worst_by_provider(verdicts: list[tuple[str, Verdict]]) -> dict[str, Verdict]:
    worst: dict[str, Verdict] = {}
    for provider, verdict in verdicts:
        if provider not in worst or verdict.ratio > worst[provider].ratio:
            worst[provider] = verdict
    return worst


def _message(op: Op, wrong: list[str]) -> str:
    shown = "\n".join(wrong[:8]) + (f"\n… and {len(wrong) - 8} more cases" if len(wrong) > 8 else "")
    return f"{op.name} is wrong in {len(wrong)} cases:\n{shown}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.is_floating_point() else tensor


def _same(left: torch.Tensor, right: torch.Tensor, deterministic: bool) -> bool:
    if deterministic or not left.is_floating_point():
        return bool(torch.equal(_bits(left), _bits(right)))
    return bool(torch.allclose(left.float(), right.float(), rtol=1e-2, atol=1e-2, equal_nan=True))


def _in_threads(
    target: Target, op: Op, cases: list[ServedCase], expected: list[Outputs]
) -> Iterator[tuple[ServedCase, Outputs, Outputs]]:
    """Run every case some times, all threads at once; yield what came out and what comes out alone."""
    together = threading.Barrier(NUM_THREADS)

    def work(index: int) -> list[Outputs]:
        try:
            return [_with_others(together, target, op, cases[index]) for _ in range(NUM_ROUNDS)]
        except BaseException:
            together.abort()  # nobody waits for a thread that is gone
            raise

    if not cases:
        return
    indices = [index % len(cases) for index in range(NUM_THREADS)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        rounds = [pool.submit(work, index) for index in indices]
    for index, future in zip(indices, rounds, strict=True):
        error = future.exception()
        assert error is None or isinstance(error, threading.BrokenBarrierError), (
            f"{cases[index].provider}'s {op.name} [{cases[index].case.label}] is not thread-safe: with another call at "
            f"the same time it raises {type(error).__name__}: {error}"
        )
        for outputs in future.result() if error is None else ():
            yield cases[index], outputs, expected[index]


def _with_others(together: threading.Barrier, target: Target, op: Op, served: ServedCase) -> Outputs:
    together.wait(WAIT_S)
    return outputs_of(target, op, served)
