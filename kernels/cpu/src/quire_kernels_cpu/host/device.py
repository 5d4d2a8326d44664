"""The processor as a device: threads chosen, work done when its call returns."""

from __future__ import annotations

import ctypes

import torch

from quire.backend.host_device import HostDevice
from quire.errors import ConfigError
from quire_kernels_cpu.host.options import Options
from quire_kernels_cpu.host.processor import Processor
from quire_kernels_cpu.library import Library

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


class CpuDevice(HostDevice):
    """The host's processors, computing with `options.threads` threads of torch's pool."""

    def __init__(self, processor: Processor, options: Options, library: Library) -> None:
        super().__init__()
        torch.set_num_threads(options.threads)
        keep_freed_memory()
        self.name = f"{processor.model}, {options.threads} threads, {library.variant}"
        if options.pin:
            _pin(processor, options.threads, library)


def keep_freed_memory() -> None:
    """Let malloc keep what it frees, of any size, where the C library is glibc.

    It maps blocks over 32 MB anew each time (the logits of a batch, the gates of a long prompt), and a page fault costs
    2.3 us on a virtual machine: writing 40 MB took 25 ms instead of 3.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _pin(processor: Processor, threads: int, library: Library) -> None:
    """Bind thread i of the pool to core i. Raise ConfigError when there are fewer cores."""
    if threads > len(processor.cores):
        raise ConfigError(
            f"pin=on needs a core for each of {threads} threads; there are {len(processor.cores)}: lower threads"
        )
    library.pin_threads(list(processor.cores[:threads]))
