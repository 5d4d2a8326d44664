"""Device memory whose addresses outlive its bytes: CUDA's virtual memory management, through the driver library.

A captured graph holds addresses. To give a region's bytes back while the engine sleeps, and take others when it wakes,
addresses are reserved once, and physical memory is mapped behind them, taken away, and mapped again.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_size_t, c_ubyte, c_ulonglong, c_ushort, c_void_p
from typing import Any

import torch

from quire.errors import BackendError, CapacityError
from quire_cuda.allocator import Chunk

OUT_OF_MEMORY = 2
ON_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE
PINNED = 1  # CU_MEM_ALLOCATION_TYPE_PINNED
READ_WRITE = 3  # CU_MEM_ACCESS_FLAGS_PROT_READWRITE


class Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = (("type", c_int), ("id", c_int))


class Flags(ctypes.Structure):
    """The `allocFlags` of CUmemAllocationProp."""

    _fields_ = (("compression", c_ubyte), ("rdma", c_ubyte), ("usage", c_ushort), ("reserved", c_ubyte * 4))


class Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c_int),
        ("handle_types", c_int),
        ("location", Location),
        ("win32_metadata", c_void_p),
        ("flags", Flags),
    )


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", Location), ("flags", c_int))


class Bytes:
    """What torch makes a tensor of, and keeps as long: a chunk that is mapped."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.__cuda_array_interface__ = {
            "shape": (chunk.num_bytes,),
            "typestr": "|u1",
            "data": (chunk.address, False),
            "version": 3,
        }


class VirtualMemory:
    """Address ranges on one GPU."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)  # initialises the driver
        self._device = device
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._location = Location(ON_DEVICE, device.index)
        self._properties = Properties(type=PINNED, location=self._location)
        granularity = c_size_t()
        self._call("cuMemGetAllocationGranularity", byref(granularity), byref(self._properties), c_int(0))
        self.granularity = granularity.value

    def reserve(self, num_bytes: int) -> int:
        """Return the start of `num_bytes` addresses with nothing behind them."""
        address = c_ulonglong()
        size = c_size_t(num_bytes)
        self._call("cuMemAddressReserve", byref(address), size, c_size_t(0), c_ulonglong(0), c_ulonglong(0))
        return address.value

    def map(self, address: int, num_bytes: int) -> int:
        """Put memory behind a reserved range; return its handle. Raise CapacityError when there is none."""
        handle, start, size = c_ulonglong(), c_ulonglong(address), c_size_t(num_bytes)
        self._call("cuMemCreate", byref(handle), size, byref(self._properties), c_ulonglong(0))
        self._call("cuMemMap", start, size, c_size_t(0), handle, c_ulonglong(0))
        access = Access(self._location, READ_WRITE)
        self._call("cuMemSetAccess", start, size, byref(access), c_size_t(1))
        return handle.value

    def unmap(self, address: int, num_bytes: int, handle: int) -> None:
        """Give the memory behind a range back, when the GPU is done with it; the range stays reserved."""
        torch.cuda.synchronize(self._device)
        self._call("cuMemUnmap", c_ulonglong(address), c_size_t(num_bytes))
        self._call("cuMemRelease", c_ulonglong(handle))

    def free(self, address: int, num_bytes: int) -> None:
        """Give the addresses back."""
        self._call("cuMemAddressFree", c_ulonglong(address), c_size_t(num_bytes))

    def tensor(self, chunk: Chunk) -> torch.Tensor:
        """Return a mapped chunk as uint8."""
        return torch.as_tensor(Bytes(chunk), device=self._device)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code == OUT_OF_MEMORY:
            raise CapacityError(f"{function}: the GPU is out of memory")
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(c_int(code), byref(text))
            raise BackendError(f"{function} failed with {code} ({(text.value or b'unknown').decode()})")
