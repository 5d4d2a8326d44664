"""The hooks, through the core's manager."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from quire.backend.contract import KernelRequest
from quire.backend.manager import OpenBackend, open_backend, select
from quire.errors import BackendError, ConfigError
from quire.ops.records import OPS
from quire_cpu_x86.backend import CpuX86Backend
from quire_kernels_cpu.host.processor import read_processor
from quire_kernels_cpu.memory import HugePageAllocator


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before, mask = torch.get_num_threads(), os.sched_getaffinity(0)
    yield
    torch.set_num_threads(before)
    os.sched_setaffinity(0, mask)


def opened(**options: str) -> OpenBackend:
    return open_backend(select("cpu-x86", options))


def test_it_wins_a_free_choice_here():
    assert select(None, {}).name == "cpu-x86"


def test_every_op_but_block_copy_is_its_own():
    table = opened().create_table(OPS)
    needed = [op for op in OPS if not op.optional]
    others = [op.name for op in needed if table.resolve(KernelRequest(op.name, "float32")).provider != "cpu-x86"]
    assert others == ["block_copy"]


def test_it_computes_with_one_thread_a_core(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    opened().open_device()
    assert torch.get_num_threads() == read_processor().num_threads


def test_threads_can_be_set():
    device = opened(threads="1").open_device()
    assert torch.get_num_threads() == 1
    assert "1 threads" in device.name


def test_pinning_binds_the_calling_thread_to_its_core():
    opened(threads="1", pin="on").open_device()
    assert os.sched_getaffinity(0) == {read_processor().cores[0]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thread": "2"}, "no option thread; it has threads: how many threads compute"),
        ({"threads": "0"}, "threads is '0'; it must be a number from 1"),
        ({"threads": "two"}, "threads is 'two'"),
        ({"pin": "yes"}, "pin is 'yes'; it must be on or off"),
        ({"isa": "mmx"}, "'mmx' cannot run here; this processor runs"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_supported(options, message):
    with pytest.raises(ConfigError, match=message):
        opened(**options)


def test_pinning_more_threads_than_cores_is_refused():
    with pytest.raises(ConfigError, match="pin=on needs a core for each of 999 threads"):
        opened(threads="999", pin="on").open_device()


def test_an_instruction_set_can_be_chosen():
    assert opened(isa="avx2").collect_env()["instruction set"] == "avx2"


def test_kernels_that_are_not_built_are_an_error_of_the_backend(monkeypatch, tmp_path):
    monkeypatch.setattr("quire_kernels_cpu.library.FOLDER", tmp_path)
    with pytest.raises(BackendError, match="the CPU kernels cannot be loaded: .* was not built"):
        CpuX86Backend().load(None)


def test_diagnostics_name_what_computes():
    env = opened().collect_env()
    assert env.keys() >= {"processor", "instruction set", "cores", "threads", "pinned", "openmp", "compiler", "torch"}
    assert "gomp" in env["openmp"] or "omp" in env["openmp"]


def test_memory_comes_in_huge_pages():
    backend = opened()
    assert isinstance(backend.create_allocator(backend.open_device()), HugePageAllocator)
