"""The hooks of tpu: those of every XLA backend, with what is a TPU's own."""

from __future__ import annotations

from quire_kernels_xla.backend import Traits, XlaBackend
from quire_kernels_xla.buckets import BucketSizes

TPU = Traits(
    name="tpu",
    support="runs emulated on XLA's CPU device; has not run on a TPU",
    dtypes=("bfloat16", "float32"),
    block_sizes=(16, 32, 64, 128),
    sizes=BucketSizes(rows=(8, 16, 32, 64, 128, 256), tokens=(16, 64, 256, 1024, 2048, 4096, 8192)),
    versions=("jax", "jaxlib", "libtpu", "torchax", "torch-xla", "torch"),
    pallas=True,
    runtimes=("torch_xla", "jax"),  # torch_xla brings a torchax that does not run, so where it is, it serves
)


class TpuBackend(XlaBackend):
    """The backend."""

    def __init__(self) -> None:
        super().__init__(TPU)
