"""The kernels that the backend itself registers, without the reference's and without extra plugins'."""

from __future__ import annotations

from quire.backend.contract import Kernel, WeightTransform
from quire_conformance.target import Target


class Listing:
    """A registrar that only remembers."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []
        self.transforms: list[WeightTransform] = []

    def register(self, kernel: Kernel) -> None:
        self.kernels.append(kernel)

    def register_transform(self, transform: WeightTransform) -> None:
        self.transforms.append(transform)


def registered_kernels(target: Target) -> list[Kernel]:
    """Ask the backend's own hook."""
    listing = Listing()
    target.backend.hooks.quire_register_kernels(table=listing)
    return listing.kernels
