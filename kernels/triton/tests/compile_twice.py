"""Compile two ops together, then launch them, for a GPU that is not here; run by a test, in a process of its own."""

from __future__ import annotations

import sys

import torch

from quire_kernels_triton import norms
from quire_kernels_triton.compile_ahead import compile_together
from quire_kernels_triton.cross_compile import dry_run, parse_target
from quire_kernels_triton.launching import in_order


def main(target_name: str) -> None:
    """Print how many kernels were compiled together, and how many after that, when the ops were called."""
    x, weight = torch.ones(4, 64, dtype=torch.bfloat16), torch.ones(64, dtype=torch.bfloat16)

    def call() -> None:
        alone = norms.rms_norm(x, weight, 1e-6, in_order)
        assert not alone.any(), "a kernel that was not launched leaves zeros"
        norms.add_rms_norm(x, x, weight, 1e-6, in_order)

    with dry_run(parse_target(target_name)), torch.inference_mode():
        print(compile_together([call, call], lambda: None))
        print(compile_together([call], lambda: None))


if __name__ == "__main__":
    main(sys.argv[1])
