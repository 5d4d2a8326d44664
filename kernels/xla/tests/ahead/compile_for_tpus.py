"""Compile the Pallas kernels for TPUs on a machine that has none: what they take, and that too large a tile is refused.

JAX_PLATFORMS=cpu python kernels/xla/tests/ahead/compile_for_tpus.py        (needs jax and libtpu; a minute)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from quire_kernels_xla.pallas import paged_attention

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
MIB = 2**20


class Case(NamedTuple):
    """A step's attention: 32 query heads on 8 KV heads of 128, bfloat16, 4096 tokens of context."""

    name: str
    num_tokens: int
    num_rows: int
    decode: bool
    block_size: int = 32
    window: int | None = None
    soft_cap: float | None = None
    tile: int = 32
    step_tokens: int = 128

    def lower(self, device: Any) -> Any:
        sharding = jax.sharding.SingleDeviceSharding(device)

        def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        cache = array((2048, 8, self.block_size, 128), jnp.bfloat16)
        function = partial(
            paged_attention,
            scale=128**-0.5,
            window=self.window,
            soft_cap=self.soft_cap,
            decode=self.decode,
            tile=self.tile,
            step_tokens=self.step_tokens,
        )
        return jax.jit(function).lower(
            array((self.num_tokens, 32, 128), jnp.bfloat16),
            cache,
            cache,
            array((self.num_rows + 1,), jnp.int32),
            array((self.num_rows,), jnp.int32),
            array((self.num_rows, 4096 // self.block_size), jnp.int32),
        )


CASES = (
    Case("decode, 64 rows", 64, 64, True),
    Case("decode, 8 rows, blocks of 128", 8, 8, True, block_size=128),
    Case("ragged, 1024 tokens in 64 rows", 1024, 64, False),
    Case("ragged, window and soft cap", 256, 8, False, window=1024, soft_cap=50.0),
)
TOO_LARGE = Case("tiles of 1024 tokens", 2048, 8, False, tile=1024)


def main() -> int:
    """Print a line for each chip and case; return on how many chips too large a tile was not refused for its memory."""
    return sum(_compile(chip, topology) for chip, topology in TOPOLOGIES.items())


def _compile(chip: str, topology: str) -> int:
    device = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices[0]
    for line in _sound(device):
        print(f"{chip}: {line}", flush=True)
    line, problem = _refused(device)
    print(f"{chip}: {line}", flush=True)
    return int(problem)


def _sound(device: Any) -> Iterator[str]:
    for case in CASES:
        before = time.perf_counter()
        memory = case.lower(device).compile().memory_analysis()
        seconds = time.perf_counter() - before
        sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
        figures = ", ".join(f"{size / MIB:.2f} MiB" for size in sizes)
        yield f"{case.name}: arguments, output, temporaries {figures}; {seconds:.1f} s"


def _refused(device: Any) -> tuple[str, bool]:
    try:
        TOO_LARGE.lower(device).compile()
    except Exception as error:
        told = next((line for line in str(error).splitlines() if "vmem" in line.lower()), None)
        return (f"{TOO_LARGE.name}: refused: {told or error}", told is None)
    return (f"{TOO_LARGE.name}: compiled, and should have been refused", True)


if __name__ == "__main__":
    sys.exit(main())
