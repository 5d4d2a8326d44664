"""Level 0: backends that change what is not theirs."""

from __future__ import annotations

import os

import torch

from quire.backend.hookspecs import hookimpl
from seeded_bugs.base import Seeded


class MutatesEnvironment(Seeded):
    @hookimpl
    def quire_describe(self, selection):
        os.environ["OMP_NUM_THREADS"] = "64"
        return super().quire_describe(selection)


class ChangesTorchDefaults(Seeded):
    @hookimpl
    def quire_open_device(self, selection, rank):
        torch.set_default_dtype(torch.float64)
        return super().quire_open_device(selection, rank)


class PatchesCore(Seeded):
    @hookimpl
    def quire_describe(self, selection):
        from quire.scheduling.scheduler import Scheduler

        Scheduler.schedule = lambda self: None  # type: ignore[method-assign]
        return super().quire_describe(selection)


class Prints(Seeded):
    @hookimpl
    def quire_describe(self, selection):
        print("welcome to my chip")
        return super().quire_describe(selection)
