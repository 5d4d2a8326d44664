"""Weights in panels, the form in which projections are fastest (csrc/panels.h): packed once, in place, at load time."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, get_num_threads

from quire.backend.contract import KernelRequest
from quire_kernels_cpu.library import Library
from quire_kernels_cpu.step_kernels import CODES


class PanelWeight(NamedTuple):
    """A weight whose elements lie in panels; `data` has the shape `[N, K]` that it had, and no longer its order."""

    data: Tensor


class PanelPacker:
    """Packs weights for the kernels of one library."""

    def __init__(self, library: Library) -> None:
        self._pack = library.function("pack_panels")
        self._unit = library.panel_unit

    def pack(self, weight: Tensor, request: KernelRequest) -> Tensor | PanelWeight:
        """Return the layer's weight in panels, in the same memory; as it is if it is tied or does not divide.

        With an activation in the request, a panel holds rows of the gate beside those that they gate.
        """
        num_rows, num_columns = weight.shape
        if request.attributes.get("tied") or not self._unit(CODES[weight.dtype], num_rows, num_columns):
            return weight
        source = weight.clone()
        gated = request.attributes.get("activation") is not None
        code, threads = CODES[weight.dtype], get_num_threads()
        self._pack(source.data_ptr(), weight.data_ptr(), code, num_rows, num_columns, gated, threads)
        return PanelWeight(weight)
