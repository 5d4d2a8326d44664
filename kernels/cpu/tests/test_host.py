"""The host's processor as backends see it: cores, quota, name, and what POWER's kernel tells of itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from quire_kernels_cpu.host.processor import physical_cores, read_model, read_processor
from quire_kernels_cpu.isa import VARIANTS, usable_variants
from quire_kernels_cpu.power import power_flags, read_power_flags

POWER8 = {16: 0x80, 26: 0x80000000}
POWER9 = {16: 0x80, 26: 0x80800000}
POWER10 = {16: 0x80, 26: 0x80860000}


def auxv(values: dict[int, int]) -> bytes:
    """Return an auxiliary vector, ended as the kernel ends it."""
    return b"".join(struct.pack("<QQ", *pair) for pair in {33: 0x7FFF0000, **values, 0: 0}.items())


@pytest.mark.parametrize(
    ("values", "variants"),
    [
        (POWER10, ("power10", "power9", "power8", "generic")),
        (POWER9, ("power9", "power8", "generic")),
        (POWER8, ("power8", "generic")),
        ({16: 0, 26: 0x80860000}, ("generic",)),
        ({}, ("generic",)),
    ],
)
def test_a_power_processor_runs_its_generation_and_the_older_ones(values, variants):
    assert usable_variants(power_flags(auxv(values))) == variants


def test_power10_without_matrix_units_takes_the_code_of_power9():
    assert usable_variants(power_flags(auxv({16: 0x80, 26: 0x80840000})))[0] == "power9"


def test_every_instruction_set_has_a_source():
    sources = (Path(__file__).parents[1] / "csrc/variants").glob("*.cpp")
    assert {variant.name for variant in VARIANTS} == {path.stem for path in sources}


def test_a_kernel_that_tells_nothing_gives_no_flags(tmp_path):
    assert read_power_flags(tmp_path / "none") == frozenset()
    assert power_flags(b"torn") == frozenset()


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel name\t: X\n\nmodel name\t: Y\n", "X"),
        ("processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t: 3800MHz\n", "POWER9, altivec supported"),
        ("", "unknown"),
    ],
)
def test_the_processor_is_named_as_its_kernel_names_it(tmp_path, cpuinfo, model):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert read_model(tmp_path / "cpuinfo") == model


def test_one_thread_a_physical_core(tmp_path):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert physical_cores([0, 1, 2, 3], tmp_path) == (0, 1)
    assert physical_cores([1, 2, 3], tmp_path) == (1, 2)
    assert physical_cores([4, 5], tmp_path / "none") == (4, 5)


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 4), ("150000 100000", 1), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_quota_lowers_the_threads(tmp_path, quota, threads):
    (tmp_path / "cpu.max").write_text(quota)
    processor = read_processor(quota=tmp_path / "cpu.max")._replace(cores=(0, 1, 2, 3))
    assert processor.num_threads == threads
