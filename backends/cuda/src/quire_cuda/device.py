"""What the core's parts for accelerators must know of CUDA: torch's module of it, graphs, the driver."""

from __future__ import annotations

import ctypes

import torch

from quire.backend.accelerator.graphs import GraphApi
from quire.backend.accelerator.mapped_memory import Driver
from quire_cuda.manifest import DRIVER
from quire_kernels_triton.gpu_backend import Platform

# Other threads may use the device while a step is captured.
GRAPHS = GraphApi(torch.cuda, torch.cuda.CUDAGraph, {"capture_error_mode": "thread_local"})
CUDA = Platform("cuda", torch.cuda, GRAPHS, collectives="nccl")


def load_driver() -> Driver:
    """Load the driver's library."""
    return Driver(ctypes.CDLL(DRIVER), "cu", explain, "__cuda_array_interface__")


def explain(library: ctypes.CDLL, code: int) -> str:
    """Return what an error code means."""
    text = ctypes.c_char_p()
    library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
    return (text.value or b"unknown").decode()
