"""One NVIDIA GPU, its graphs and its memory: what the core's parts for accelerators must know of them."""

from __future__ import annotations

import ctypes

import torch

from quire.backend.accelerator.device import AcceleratorDevice
from quire.backend.accelerator.graphs import GraphApi
from quire.backend.accelerator.mapped_memory import Driver

# Other threads may use the device while a step is captured.
GRAPHS = GraphApi(torch.cuda, torch.cuda.CUDAGraph, {"capture_error_mode": "thread_local"})


class CudaDevice(AcceleratorDevice):
    """GPU number `index` of this process."""

    def __init__(self, index: int) -> None:
        super().__init__(torch.device("cuda", index), torch.cuda)


def load_driver() -> Driver:
    """Load the driver's library."""
    return Driver(ctypes.CDLL("libcuda.so.1"), "cu", explain, "__cuda_array_interface__")


def explain(library: ctypes.CDLL, code: int) -> str:
    """Return what an error code means."""
    text = ctypes.c_char_p()
    library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
    return (text.value or b"unknown").decode()
