"""A driver's virtual memory management, in figures: which addresses are reserved, what is behind them, what is left."""

from __future__ import annotations

from typing import Any

GRANULARITY = 1 << 16
FIRST_ADDRESS = 1 << 40
OUT_OF_MEMORY, INVALID = 2, 1


class FakeDriver:
    """Its functions are called as a library's are. `keeps_released`: as in `Driver`; `limit`: bytes that there are."""

    def __init__(self, prefix: str, limit: int, keeps_released: bool = False) -> None:
        self.reserved: dict[int, int] = {}  # address: bytes
        self.mapped: dict[int, int] = {}  # address: handle
        self.handles: dict[int, int] = {}  # handle: bytes
        self.kept: dict[int, int] = {}  # address: bytes that were released and are not free yet
        self.crowded = False  # addresses that are given back are taken by others at once
        self._prefix = prefix
        self._limit = limit
        self._keeps_released = keeps_released
        self._next = FIRST_ADDRESS

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(self._prefix):
            raise AttributeError(name)
        return getattr(self, "_" + name.removeprefix(self._prefix))

    @property
    def free_bytes(self) -> int:
        return self._limit - sum(self.handles.values()) - sum(self.kept.values())

    def _MemGetAllocationGranularity(self, granularity: Any, properties: Any, kind: Any) -> int:
        granularity._obj.value = GRANULARITY
        return 0 if (properties._obj.type, properties._obj.location.type) == (1, 1) else INVALID

    def _MemAddressReserve(self, address: Any, size: Any, alignment: Any, wanted: Any, flags: Any) -> int:
        free = wanted.value and wanted.value not in self.reserved and not self.crowded
        address._obj.value = wanted.value if free else self._next
        self._next += 0 if free else size.value
        self.reserved[address._obj.value] = size.value
        return 0

    def _MemAddressFree(self, address: Any, size: Any) -> int:
        self.kept.pop(address.value, None)
        return 0 if self.reserved.pop(address.value, None) == size.value else INVALID

    def _MemCreate(self, handle: Any, size: Any, properties: Any, flags: Any) -> int:
        if size.value > self.free_bytes:
            return OUT_OF_MEMORY
        handle._obj.value = max(self.handles, default=0) + 1
        self.handles[handle._obj.value] = size.value
        return 0

    def _MemMap(self, address: Any, size: Any, offset: Any, handle: Any, flags: Any) -> int:
        if self.reserved.get(address.value) != size.value or address.value in self.mapped:
            return INVALID
        self.mapped[address.value] = handle.value
        return 0

    def _MemSetAccess(self, address: Any, size: Any, access: Any, count: Any) -> int:
        return 0 if address.value in self.mapped and access._obj.flags == 3 else INVALID

    def _MemUnmap(self, address: Any, size: Any) -> int:
        handle = self.mapped.pop(address.value, None)
        if handle is not None and self._keeps_released:
            self.kept[address.value] = self.handles[handle]
        return INVALID if handle is None else 0

    def _MemRelease(self, handle: Any) -> int:
        return INVALID if self.handles.pop(handle.value, None) is None else 0
