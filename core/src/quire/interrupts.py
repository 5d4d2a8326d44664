"""Ctrl-C between steps instead of inside one, so that what is under way can be brought to rest."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class DeferredInterrupt:
    """While entered, the first Ctrl-C only sets a flag, which `check` raises; a second one strikes at once.

    On other threads than the main one, which get no signals, and where the program handles SIGINT itself, it does
    nothing.
    """

    def __init__(self) -> None:
        self._is_due = False
        self._is_installed = False

    def __enter__(self) -> Self:
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._is_installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._is_installed = False
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._is_due:
            self._is_due = False
            raise KeyboardInterrupt

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._is_due:
            raise KeyboardInterrupt
        self._is_due = True
