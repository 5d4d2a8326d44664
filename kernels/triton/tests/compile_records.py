"""Compile every case of every op's record for a GPU that is not here; run by a test, in a process of its own."""

from __future__ import annotations

import sys

import torch

from quire.backend.contract import KernelRequest
from quire.ops.cases.float8 import float8_cases
from quire.ops.records import OPS
from quire.ops.table import KernelTable
from quire_kernels_triton.cross_compile import SHARED_LIMITS, dry_run, family_of, parse_target
from quire_kernels_triton.registry import register_kernels
from quire_kernels_triton.tuning import Target


def main(target_name: str) -> None:
    """Raise what the compiler raises; refuse a kernel that asks for more shared memory than there is."""
    target = parse_target(target_name)
    table = KernelTable(OPS)
    register_kernels(table, target=Target(family_of(target), 132))
    count = 0
    for op in (op for op in OPS if table.providers(op.name)):
        for dtype in op.dtypes:
            narrow = [case for case in float8_cases(op.name, dtype) if table.serves(case.request)]
            for case in (*op.cases(dtype, 0), *narrow):
                kernel = table.bind(KernelRequest(op.name, dtype, case.request.attributes))
                with dry_run(target) as found, torch.inference_mode():
                    kernel(**case.inputs)
                count += len(found)
                for needs in found:
                    assert needs.shared_bytes <= SHARED_LIMITS[family_of(target)], (op.name, case.label, dtype, needs)
    print(count)


if __name__ == "__main__":
    main(sys.argv[1])
