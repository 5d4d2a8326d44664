"""Every kernel against the fp64 reference, on the device: all cases of all records, in every dtype.

Cases are judged by several processes, because most of the time goes into compiling their many shapes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

PROCESSES = 12


class Part(NamedTuple):
    """Cases number `first`, `first + step`, … of one op in one dtype."""

    op: str
    dtype: str
    first: int
    step: int


class Judged(NamedTuple):
    part: Part
    num_cases: int
    failures: tuple[str, ...]
    worst: float


def check_ops() -> list[str]:
    """Judge everything, print a line for each op, return the failures."""
    from quire.ops.records import OPS

    started = time.perf_counter()
    parts = [
        Part(op.name, dtype, first, step)
        for op in OPS
        for dtype in op.dtypes
        for step in [6 if op.name == "paged_attention" else 2 if op.name == "qkv_rope_write" else 1]
        for first in range(step)
    ]
    parts.sort(key=lambda part: part.op != "paged_attention")
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        judged = list(pool.map(judge_part, parts))
    for op in OPS:
        _print_op(op.name, [item for item in judged if item.part.op == op.name])
    failures = [text for item in judged for text in item.failures]
    print(f"ops: {sum(item.num_cases for item in judged)} cases, {len(failures)} wrong, "
          f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
    return failures


def judge_part(part: Part) -> Judged:
    """Judge some cases; a kernel that raises is a failure."""
    import torch

    from quire.backend.contract import KernelRequest
    from quire.ops.cases.float8 import float8_cases
    from quire.ops.check import judge
    from quire.ops.records import OPS
    from quire.ops.table import KernelTable
    from quire_cuda.plugin import CudaBackend

    table = KernelTable(OPS)
    CudaBackend().quire_register_kernels(table)
    op = table.ops[part.op]
    narrow = [case for case in float8_cases(op.name, part.dtype) if table.serves(case.request)]
    cases = [*op.cases(part.dtype, 0), *narrow][part.first :: part.step]
    failures, worst = [], 0.0
    for case in cases:
        try:
            request = KernelRequest(part.op, part.dtype, case.request.attributes)
            verdict = judge(op, case, table.bind(request), torch.device("cuda"))
        except Exception as error:
            if "no kernel serves" in str(error):
                failures.append(f"not served: {part.op} [{case.label}] {part.dtype}")
            else:
                failures.append(f"raised: {part.op} [{case.label}] {part.dtype}: {type(error).__name__}: {error}"[:600])
            continue
        worst = max(worst, verdict.ratio)
        if not verdict.ok:
            failures.append(str(verdict))
    return Judged(part, len(cases), tuple(failures), worst)


def _print_op(op: str, judged: Sequence[Judged]) -> None:
    count, wrong = sum(item.num_cases for item in judged), sum(len(item.failures) for item in judged)
    worst = max((item.worst for item in judged), default=0.0)
    print(f"{op:20} {count:4} cases {wrong:4} wrong   worst ratio {worst:.2f}", flush=True)
