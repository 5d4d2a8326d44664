"""Device memory whose addresses outlive its bytes: drivers' virtual memory management, called through their library.

A captured graph holds addresses. To give a region's bytes back while the engine sleeps, and take others when it wakes,
addresses are reserved once, and physical memory is mapped behind them, taken away, and mapped again. Vendors whose
calls and structures follow one another differ in names alone, which `Driver` holds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_int, c_size_t, c_ubyte, c_ulonglong, c_ushort, c_void_p
from types import ModuleType
from typing import Any, NamedTuple

import torch

from quire.backend.accelerator.regions import Chunk
from quire.errors import BackendError, CapacityError

OUT_OF_MEMORY = 2
ON_DEVICE = 1  # of MEM_LOCATION_TYPE
PINNED = 1  # of MEM_ALLOCATION_TYPE
READ_WRITE = 3  # of MEM_ACCESS_FLAGS


class Driver(NamedTuple):
    """A driver's library, what its functions' names begin with, how it tells what an error code means, and the
    attribute that torch reads an object's addresses from (a dict as in numpy's array interface, version 3).

    `keeps_released`: memory that was released stays taken until the addresses that it was behind are given back too.
    """

    library: ctypes.CDLL
    prefix: str
    explain: Callable[[ctypes.CDLL, int], str]
    array_interface: str
    keeps_released: bool = False


class Location(ctypes.Structure):
    """Where memory lies: MemLocation."""

    _fields_ = (("type", c_int), ("id", c_int))


class Flags(ctypes.Structure):
    """The `allocFlags` of MemAllocationProp."""

    _fields_ = (("compression", c_ubyte), ("rdma", c_ubyte), ("usage", c_ushort), ("reserved", c_ubyte * 4))


class Properties(ctypes.Structure):
    """What memory is wanted: MemAllocationProp."""

    _fields_ = (
        ("type", c_int),
        ("handle_types", c_int),
        ("location", Location),
        ("win32_metadata", c_void_p),
        ("flags", Flags),
    )


class Access(ctypes.Structure):
    """Who may use it: MemAccessDesc."""

    _fields_ = (("location", Location), ("flags", c_int))


class Bytes:
    """What torch makes a tensor of, and keeps as long: a chunk that is mapped."""

    def __init__(self, chunk: Chunk, array_interface: str) -> None:
        self.chunk = chunk
        interface = {"shape": (chunk.num_bytes,), "typestr": "|u1", "data": (chunk.address, False), "version": 3}
        setattr(self, array_interface, interface)


class MappedMemory:
    """Address ranges on one device. `runtime` is torch's module of the device type."""

    def __init__(self, device: torch.device, runtime: ModuleType, driver: Driver) -> None:
        runtime.synchronize(device)  # initialises the driver
        self._device = device
        self._runtime = runtime
        self._driver = driver
        self._location = Location(ON_DEVICE, device.index)
        self._properties = Properties(type=PINNED, location=self._location)
        granularity = c_size_t()
        self._call("MemGetAllocationGranularity", byref(granularity), byref(self._properties), c_int(0))
        self.granularity = granularity.value

    def reserve(self, num_bytes: int) -> int:
        """Return the start of `num_bytes` addresses with nothing behind them."""
        return self._reserve(num_bytes, 0)

    def map(self, address: int, num_bytes: int) -> int:
        """Put memory behind a reserved range; return its handle. Raise CapacityError when there is none."""
        handle, start, size = c_ulonglong(), c_ulonglong(address), c_size_t(num_bytes)
        self._call("MemCreate", byref(handle), size, byref(self._properties), c_ulonglong(0))
        self._call("MemMap", start, size, c_size_t(0), handle, c_ulonglong(0))
        access = Access(self._location, READ_WRITE)
        self._call("MemSetAccess", start, size, byref(access), c_size_t(1))
        return handle.value

    def unmap(self, address: int, num_bytes: int, handle: int) -> None:
        """Give the memory behind a range back, when the device is done with it; the range stays reserved."""
        self._runtime.synchronize(self._device)
        self._call("MemUnmap", c_ulonglong(address), c_size_t(num_bytes))
        self._call("MemRelease", c_ulonglong(handle))
        if self._driver.keeps_released:
            self.free(address, num_bytes)
            self._reserve_again(address, num_bytes)

    def free(self, address: int, num_bytes: int) -> None:
        """Give the addresses back."""
        self._call("MemAddressFree", c_ulonglong(address), c_size_t(num_bytes))

    def tensor(self, chunk: Chunk) -> torch.Tensor:
        """Return a mapped chunk as uint8."""
        return torch.as_tensor(Bytes(chunk, self._driver.array_interface), device=self._device)

    def _reserve(self, num_bytes: int, wanted: int) -> int:
        """Reserve addresses, those from `wanted` on if they can be had and it is not 0."""
        address, size = c_ulonglong(), c_size_t(num_bytes)
        self._call("MemAddressReserve", byref(address), size, c_size_t(0), c_ulonglong(wanted), c_ulonglong(0))
        return address.value

    def _reserve_again(self, address: int, num_bytes: int) -> None:
        got = self._reserve(num_bytes, address)
        if got != address:
            self.free(got, num_bytes)
            raise BackendError(
                f"addresses of a sleeping region were taken by others ({address:#x}); restart the engine"
            )

    def _call(self, function: str, *arguments: Any) -> None:
        name = self._driver.prefix + function
        code = getattr(self._driver.library, name)(*arguments)
        if code == OUT_OF_MEMORY:
            raise CapacityError(f"{name}: the device is out of memory")
        if code:
            raise BackendError(f"{name} failed with {code} ({self._driver.explain(self._driver.library, code)})")
