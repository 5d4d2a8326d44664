"""How many bytes of tensors are alive, counted as torch makes and drops them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):  # type: ignore[misc]
    """While entered, `now` and `peak` are the bytes of tensors made since. Views and tensors from before count nothing.

    What a kernel takes without torch is not seen. Thread: counts what the thread that entered it makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._counted: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import its compiler, for two seconds, to tell it not to compile this class.
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        known = {id(storage) for storage in _storages((args, kwargs))}
        results = func(*args, **kwargs)
        for storage in _storages(results):
            if id(storage) not in known and id(storage) not in self._counted:
                self._count(storage)
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._counted.add(id(storage))
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, num_bytes: int) -> None:
        self._counted.remove(key)
        self.now -= num_bytes


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_iter(values) if isinstance(value, torch.Tensor)]
