"""Count calls of certain Python functions, on every thread, while watching: a profile function, and nothing patched."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any, Self

from quire.backend import hookspecs
from quire_conformance.target import Target


class CallWatch:
    """Watches from `start` to `stop`. Enter it before threads are made that shall be watched too."""

    def __init__(self, names: Mapping[CodeType, str]) -> None:
        self.counts: Counter[str] = Counter()
        self._names = names
        self._on = False

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)
        threading.setprofile(None)

    def start(self) -> None:
        """Forget what was counted, and count."""
        self.counts.clear()
        self._on = True

    def stop(self) -> None:
        self._on = False

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        if self._on and event == "call" and frame.f_code in self._names:
            self.counts[self._names[frame.f_code]] += 1


def hook_codes(target: Target) -> dict[CodeType, str]:
    """Return the code of every hook that the backend fills in."""
    hooks = target.backend.hooks
    names = [name for name in dir(hookspecs) if hasattr(getattr(hookspecs, name), f"{hookspecs.PROJECT}_spec")]
    found = {name: getattr(hooks, name).get_hookimpls() for name in names}
    codes = {_code(impl.function): name for name, impls in found.items() for impl in impls}
    return {code: name for code, name in codes.items() if code is not None}


def build_codes(target: Target) -> dict[CodeType, str]:
    """Return the code of the program builder's `build`, if it is Python."""
    code = _code(target.backend.create_program_builder(target.device).build)
    return {} if code is None else {code: "build"}


def _code(function: Any) -> CodeType | None:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None
