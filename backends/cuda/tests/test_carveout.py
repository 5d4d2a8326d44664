"""Kernels that start early share one division of fast memory."""

from __future__ import annotations

import ctypes

import pytest

pytest.importorskip("triton")

from triton import knobs

from quire.errors import BackendError
from quire_cuda import carveout


class Library:
    """The two functions of the driver's library that are called, as it would answer with `code`."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.asked: list[tuple[int | None, int, int]] = []

    def cuFuncSetAttribute(self, function, attribute, value):
        self.asked.append((function.value, attribute, value.value))
        return self.code

    def cuGetErrorString(self, code, text):
        ctypes.cast(text, ctypes.POINTER(ctypes.c_char_p))[0] = b"invalid argument"


def test_a_kernel_asks_for_all_of_it():
    library = Library(0)
    carveout.ask(library, 4096, "decode_kernel")
    assert library.asked == [(4096, 9, 100)]


def test_a_refusal_names_the_kernel_and_the_cause():
    with pytest.raises(BackendError, match="decode_kernel.*invalid argument"):
        carveout.ask(Library(1), 4096, "decode_kernel")


def test_however_many_engines_there_are_a_kernel_is_asked_for_once():
    kept = list(knobs.runtime.kernel_load_end_hook.calls)
    try:
        carveout.prefer_shared_memory()
        carveout.prefer_shared_memory()
        assert knobs.runtime.kernel_load_end_hook.calls.count(carveout.ask_of_loaded) == 1
    finally:
        knobs.runtime.kernel_load_end_hook.calls = kept
