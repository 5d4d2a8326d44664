"""The hooks of neuron: those of every XLA backend, under Neuron's rules.

Prompts run alone, one in a step, and apart from decodes; buckets are few, for a compilation takes minutes; programs
have no loops; and each is checked before it is compiled.
"""

from __future__ import annotations

from quire_kernels_xla.backend import Traits, XlaBackend
from quire_kernels_xla.buckets import BucketSizes
from quire_neuron.rules import check

NEURON = Traits(
    name="neuron",
    support="runs emulated on XLA's CPU device, every program checked against Neuron's rules; has not run on a chip",
    dtypes=("bfloat16", "float32"),
    block_sizes=(16, 32, 64, 128),
    sizes=BucketSizes(rows=(8, 32, 64), tokens=(128, 512, 2048), prompt_rows=1),
    versions=("jax", "jaxlib", "libneuronxla", "torchax", "torch"),
    unroll=True,
    check=check,
)


class NeuronBackend(XlaBackend):
    """The backend."""

    def __init__(self) -> None:
        super().__init__(NEURON)
