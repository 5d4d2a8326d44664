"""Level 1: every hook answers as the contract says, and the answers fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from quire.backend.contract import FEATURES, Device, GraphLevel, Kernel, KernelRequest, ShapeMode
from quire.config import EngineConfig
from quire.errors import ConfigError, QuireError
from quire.ops.records import OPS
from quire_conformance.claims import claims
from quire_conformance.registered import registered_kernels
from quire_conformance.settings import LEVELS
from quire_conformance.target import Opened, Target
from quire_conformance.workloads import drawn, greedy

MAX_RATIO = 64.0  # a bound above this would hide a wrong mask
AXES = {"kv", "block", "head", "slot", "dim"}
Record = Callable[..., None]
NO_SUCH_OPTION = "no_such_option_of_any_backend"


def test_describing_twice_gives_the_same_capabilities(target: Target) -> None:
    again = target.backend.hooks.quire_describe(selection=target.backend.selection)
    assert again == target.caps, f"quire_describe answers {target.caps}, then {again}"


@pytest.mark.parametrize("field", ["dtypes", "kv_dtypes"])
def test_claimed_dtypes_are_torchs_names(target: Target, field: str) -> None:
    names = getattr(target.caps, field)
    assert names, f"{field} is empty"
    assert len(set(names)) == len(names), f"{field} names one twice: {names}"
    wrong = [name for name in names if not isinstance(getattr(torch, name, None), torch.dtype)]
    assert not wrong, f"{field} names {wrong}, which torch does not know"


def test_limits_are_counts(target: Target) -> None:
    caps, schedule = target.caps, target.caps.schedule
    assert caps.max_in_flight >= 1, f"max_in_flight is {caps.max_in_flight}; a step must be able to run"
    assert schedule.chunk_multiple >= 1, f"chunk_multiple is {schedule.chunk_multiple}"
    assert schedule.max_prefill_requests is None or schedule.max_prefill_requests >= 1, "no prompt could ever run"
    for name in ("token_buckets", "row_buckets"):
        buckets = getattr(schedule, name)
        assert list(buckets) == sorted(set(buckets)), f"{name} {buckets} must rise"
        assert all(size >= 1 for size in buckets), f"{name} {buckets} must be counts"


@claims("bytes")
def test_the_device_is_of_the_claimed_type(target: Target) -> None:
    found = target.device.torch_device.type
    assert found == target.caps.device_type, (
        f"caps.device_type claims {target.caps.device_type!r}, but the opened device is on {found!r}: "
        "a fallback to another device must not be silent"
    )


def test_the_device_has_a_name_for_people(target: Target) -> None:
    assert isinstance(target.device, Device), f"{target.device!r} lacks members of the Device protocol"
    assert target.device.name.strip(), "the device's name is empty"


def test_kv_constraints_can_be_met(target: Target) -> None:
    kv, caps = target.kv, target.caps
    assert kv.block_sizes, "there is no block size"
    assert all(size >= 1 for size in kv.block_sizes), f"block sizes {kv.block_sizes} must be at least 1"
    assert len(set(kv.block_sizes)) == len(kv.block_sizes), f"block sizes {kv.block_sizes} name one twice"
    assert kv.layouts, "there is no layout"
    assert all(set(layout.order) == AXES for layout in kv.layouts), f"layouts {kv.layouts} must order {sorted(AXES)}"
    assert kv.reserved_blocks >= 0, f"reserved_blocks is {kv.reserved_blocks}"
    assert kv.alignment_bytes >= 1 and not kv.alignment_bytes & (kv.alignment_bytes - 1), (
        f"alignment_bytes is {kv.alignment_bytes}; it must be a power of two"
    )
    extra = set(kv.dtypes) - set(caps.kv_dtypes)
    assert kv.dtypes, "there is no KV dtype"
    assert not extra, f"quire_kv_constraints allows {sorted(extra)}, which caps.kv_dtypes does not claim"


def test_a_setting_of_the_core_is_changed_only_with_a_reason(target: Target) -> None:
    for change in target.backend.resolve_config(target.config()):
        assert change.reason.strip(), (
            f"quire_resolve_config changes {change.field} to {change.value!r} without a reason"
        )


def test_resolving_a_config_twice_changes_nothing_more(target: Target) -> None:
    from quire.config import resolve

    once = resolve(target.config(), target.backend.resolve_config(target.config())).config
    again = resolve(once, target.backend.resolve_config(once))
    assert not again.changes, f"a settled config is changed again: {again.changes}"


def test_plain_requests_are_accepted(target: Target) -> None:
    for params in (greedy(), drawn(1)):
        reasons = target.backend.validate_request(params)
        assert not reasons, f"a plain request is refused: {'; '.join(reasons)}"


def test_an_option_that_does_not_exist_is_refused(target: Target) -> None:
    from quire.backend.manager import open_backend, select

    try:
        open_backend(select(target.name, {NO_SUCH_OPTION: "1"}))
    except ConfigError as error:
        assert NO_SUCH_OPTION in str(error), f"the refusal of an unknown option does not name it: {error}"
    else:
        pytest.fail(f"the option {NO_SUCH_OPTION} is swallowed; quire_describe must raise ConfigError naming it")


@claims("computes")
def test_a_dtype_that_is_not_claimed_is_refused(target: Target) -> None:
    others = [name for name in ("float64", "float16", "bfloat16", "int8") if name not in target.caps.dtypes]
    for name in others:
        with pytest.raises(ConfigError, match="supported"):
            _start(target, dtype=name)


def test_diagnostics_are_plain(target: Target) -> None:
    env, metrics = target.backend.collect_env(), target.backend.collect_metrics()
    assert all(isinstance(item, str) for pair in env.items() for item in pair), f"quire_collect_env answers {env}"
    assert all(isinstance(value, float | int) for value in metrics.values()), f"quire_collect_metrics says {metrics}"


# -- the profile ------------------------------------------------------------------------------------------------------


def test_the_profile_claims_levels_that_exist(target: Target) -> None:
    levels = target.profile.levels
    assert set(levels) <= LEVELS.keys(), f"levels {levels}; there are {sorted(LEVELS)}"
    assert {0, 1} <= set(levels), f"levels {levels} leave out 0 or 1, which nobody may"


def test_error_ratios_name_ops_and_are_bounds(target: Target) -> None:
    ratios: Mapping[str, float] = target.profile.error_ratio
    exact = {op.name for op in OPS if op.error.exact}
    unknown = ratios.keys() - {op.name for op in OPS}
    assert not unknown, f"error_ratio names {sorted(unknown)}, which are no ops"
    assert not ratios.keys() & exact, f"error_ratio loosens {sorted(ratios.keys() & exact)}, which are exact ops"
    loose = {name: ratio for name, ratio in ratios.items() if not 0 < ratio <= MAX_RATIO}
    assert not loose, f"error_ratio {loose} is no bound; it must be in (0, {MAX_RATIO:g}]"


def test_expected_failures_have_a_reason_and_an_issue(target: Target) -> None:
    bare = [
        item.test_id for item in target.profile.expected_failures if not (item.reason.strip() and item.issue.strip())
    ]
    assert not bare, f"expected failures without reason or issue: {bare}"


def test_expected_failures_name_tests_that_exist(target: Target) -> None:
    assert not target.stale_failures, f"expected failures that name no test (stale): {target.stale_failures}"


# -- kernels and programs ---------------------------------------------------------------------------------------------


@claims("kernels")
def test_kernels_judge_any_request_without_raising(target: Target) -> None:
    for kernel in registered_kernels(target):
        for dtype in (*kernel.dtypes, "int4"):
            reasons = kernel.constraint(KernelRequest(kernel.op, dtype))
            assert not isinstance(reasons, str), f"{_who(kernel)}: constraint returns one string, not a list of reasons"
            assert all(isinstance(reason, str) for reason in reasons), f"{_who(kernel)}: reasons {reasons!r}"


@claims("kernels")
def test_kernels_stand_above_the_reference(target: Target) -> None:
    low = [_who(item) for item in registered_kernels(target) if item.priority <= 0 and item.provider != "reference"]
    assert not low, f"{low} have priority 0 or less, where the reference is: they would never serve"


@claims("kernels")
@pytest.mark.parametrize("op", ["paged_attention", "kv_write"])
def test_the_two_kernels_of_every_backend_are_its_own(target: Target, op: str) -> None:
    own = {kernel.op for kernel in registered_kernels(target)}
    assert op in own, (
        f"the backend registers no kernel for {op}: the reference would serve it in silence, on whatever device that is"
    )


@claims("computes")
def test_every_claimed_dtype_runs_a_model(target: Target) -> None:
    for dtype in target.caps.dtypes:
        try:
            _start(target, dtype=dtype)
        except (QuireError, RuntimeError, NotImplementedError) as error:
            pytest.fail(f"dtype {dtype} is claimed, but a model in it does not start: {type(error).__name__}: {error}")


@claims("kernels")
def test_buckets_are_there_where_shapes_are_not_dynamic(target: Target) -> None:
    buckets = target.backend.create_program_builder(target.device).buckets(64, 8)
    claimed = f"caps claim {target.caps.shapes} shapes and graphs {target.caps.graphs}"
    if target.caps.shapes is ShapeMode.DYNAMIC and target.caps.graphs is GraphLevel.NONE:
        assert not buckets, f"{claimed}, but there are buckets: {list(buckets)[:3]}"
    else:
        assert buckets, f"{claimed}, but there is no bucket"


@claims("kernels", "programs")
def test_buckets_rise_and_static_ones_hold_the_largest_step(target: Target) -> None:
    buckets = list(target.backend.create_program_builder(target.device).buckets(64, 8))
    sizes = [(bucket.num_tokens, bucket.num_rows) for bucket in buckets]
    assert sizes == sorted(sizes), f"buckets must be smallest first: {buckets}"
    if target.caps.shapes is ShapeMode.STATIC:
        schedule = target.caps.schedule
        rows = 8 if schedule.mix_prefill_decode else min(schedule.max_prefill_requests or 8, 8)
        holds = any(item.num_tokens >= 64 and item.num_rows >= rows and not item.decode for item in buckets)
        assert holds, f"shapes are static, and no bucket holds a step of 64 tokens in {rows} rows: {buckets}"
        decodes = any(item.num_rows >= 8 for item in buckets)
        assert decodes, f"shapes are static, and no bucket holds a decode of 8 rows: {buckets}"


# -- the executor's facts, and what is not claimed --------------------------------------------------------------------


def test_the_executors_facts_fit_config_and_claims(target: Target, figure: Record) -> None:
    with target.open(overlap=True) as opened:
        facts, config = opened.engine.facts, opened.context.config
        for what, count in _capacities(target, opened).items():
            figure("capacity", count, of=what)
        assert facts.block_size == config.block_size, (
            f"block_size {config.block_size} was asked, it is {facts.block_size}"
        )
        assert facts.num_blocks == config.num_blocks, (
            f"{config.num_blocks} blocks were asked, there are {facts.num_blocks}"
        )
        assert facts.max_rows >= config.max_num_seqs, (
            f"{config.max_num_seqs} rows were asked, there are {facts.max_rows}"
        )
        assert facts.reserved_blocks == target.kv.reserved_blocks, "reserved blocks differ from quire_kv_constraints"
        assert facts.schedule == target.caps.schedule, f"schedule {facts.schedule} differs from the claimed one"
        assert facts.max_in_flight <= target.caps.max_in_flight, (
            f"the executor takes {facts.max_in_flight} steps at once, claimed are {target.caps.max_in_flight}"
        )


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_what_is_not_claimed_is_refused(target: Target, feature: str) -> None:
    from quire_conformance.refusal import problem_with_refusal

    if feature not in target.caps.features:
        problem = problem_with_refusal(target, feature)
        assert not problem, f"{feature} is not claimed, so it must be refused, but {problem}"


def _capacities(target: Target, opened: Opened) -> dict[str, int]:
    """Return how much there is of what, on the device and in the suite's small engine."""
    facts = opened.engine.facts
    regions = opened.executor.memory_report().items()
    return {
        "bytes of the device": target.device.memory_info().total_bytes,
        "tokens in the suite's KV cache": (facts.num_blocks - facts.reserved_blocks) * facts.block_size,
        **{f"bytes of {region} in the suite's engine": count for region, count in regions},
    }


def _who(kernel: Kernel) -> str:
    return f"{kernel.provider}'s kernel for {kernel.op}"


def _start(target: Target, **settings: Any) -> EngineConfig:
    executor, context = target.build(**settings)
    try:
        executor.start()
    finally:
        executor.stop()
    return context.config
