"""Level 1: claims that are not true, answers that do not fit together."""

from __future__ import annotations

from dataclasses import replace

from quire.backend.contract import (
    BackendCaps,
    ConfigChange,
    ConformanceProfile,
    ExpectedFailure,
    GraphLevel,
    Kernel,
    KVConstraints,
    Selection,
)
from quire.backend.hookspecs import hookimpl
from quire.backend.reference import DTYPES
from quire.execution.torch_executor import TorchExecutor
from quire.ops import reference
from seeded_bugs.base import Seeded, with_executor


def _claiming(**changes):
    class Claims(Seeded):
        @hookimpl
        def quire_describe(self, selection: Selection) -> BackendCaps:
            return replace(super().quire_describe(selection), **changes)

    return Claims


ClaimsAnotherDevice = _claiming(device_type="cuda")
ClaimsADtypeItHasNot = _claiming(dtypes=("float32", "float8_e4m3fn"))
ClaimsGraphs = _claiming(graphs=GraphLevel.STEP)


class SwallowsOptions(Seeded):
    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        return super().quire_describe(Selection(selection.name))


class ChangesItsMind(Seeded):
    depth = 1

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        self.depth += 1
        return replace(super().quire_describe(selection), max_in_flight=self.depth)


class UnexplainedChange(Seeded):
    @hookimpl
    def quire_resolve_config(self, config, caps):
        return [ConfigChange("max_num_seqs", 4, "")]


class NoKernelOfItsOwn(Seeded):
    @hookimpl
    def quire_register_kernels(self, table):
        table.register(Kernel("kv_write", "seeded", reference.kv_write, DTYPES))


class KvDtypeItDoesNotClaim(Seeded):
    @hookimpl
    def quire_kv_constraints(self, model):
        return KVConstraints(block_sizes=(16,), dtypes=("float32", "int8"))


class StaleExpectation(Seeded):
    @hookimpl
    def quire_conformance_profile(self):
        gone = ExpectedFailure("level1::test_that_was_renamed", "slow silicon", "https://example.org/1")
        return ConformanceProfile(expected_failures=(gone,))


class PassesThoughExpectedToFail(Seeded):
    @hookimpl
    def quire_conformance_profile(self):
        fine = ExpectedFailure("level1::test_limits_are_counts", "mended long ago", "https://example.org/2")
        return ConformanceProfile(expected_failures=(fine,))


class TakesMoreThanItClaims(TorchExecutor):
    def start(self):
        return super().start()._replace(max_in_flight=5)


LiesAboutDepth = with_executor(TakesMoreThanItClaims)
