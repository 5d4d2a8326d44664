"""The reference backend, through the ordinary hooks."""

import pytest
import torch

from quire.backend import reference_manifest
from quire.backend.contract import Found, HostRead, Selection
from quire.backend.host_memory import host_memory
from quire.backend.manager import open_backend, select
from quire.backend.reference import PROVIDER
from quire.errors import ConfigError
from quire.ops.records import OPS


@pytest.fixture
def backend():
    return open_backend(select("reference", {}))


def test_it_is_found_but_only_when_named():
    assert reference_manifest.probe() == Found(0, {"device": "any CPU, through torch"})


def test_it_claims_the_cpu(backend):
    assert (backend.caps.device_type, backend.caps.dtypes[0], backend.caps.max_in_flight) == ("cpu", "float32", 1)


def test_steps_in_flight_are_an_option():
    assert open_backend(select("reference", {"max_in_flight": "2"})).caps.max_in_flight == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_in_flight": "3"}, "'3'; the reference backend supports 1 or 2"),
        ({"flight": "1"}, r"no option \['flight'\]"),
    ],
)
def test_other_options_are_refused(options, message):
    from quire.backend.reference import PLUGIN

    with pytest.raises(ConfigError, match=message):
        PLUGIN.quire_describe(Selection("reference", options=options))


def test_it_serves_every_op(backend):
    table = backend.create_table(OPS)
    assert {op.name: table.providers(op.name) for op in OPS} == {op.name: [PROVIDER] for op in OPS}


def test_its_device_copies_at_once(backend):
    device = backend.open_device(0)
    source, target = device.host_buffer((3, 5), torch.int32), torch.ones(3, 5, dtype=torch.int32)
    device.to_device(source, target)
    device.synchronize()
    assert torch.equal(target, torch.zeros(3, 5, dtype=torch.int32))


def test_a_read_is_a_copy_of_its_moment(backend):
    device, tensor = backend.open_device(0), torch.arange(5)
    read: HostRead = device.to_host(tensor)
    tensor.zero_()
    assert read.wait().tolist() == [0, 1, 2, 3, 4]


def test_memory_is_what_this_process_may_take(backend):
    info = backend.open_device(0).memory_info()
    assert 2**28 < info.free_bytes <= info.total_bytes


V2, V1 = "0::/user/quire", "7:cpu,cpuacct:/\n5:memory:/user/quire\n0::/"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (
            V2,
            {"user/memory.max": "1000", "user/memory.current": "700", "user/memory.stat": "anon 5\ninactive_file 100"},
            (400, 1000),
        ),
        (V2, {"user/quire/memory.max": "1000", "user/quire/memory.current": "2000"}, (0, 1000)),
        (
            V2,
            {
                "memory.max": "800",
                "memory.current": "100",
                "user/quire/memory.max": "900",
                "user/quire/memory.current": "600",
            },
            (300, 800),
        ),
        (V1, {"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "100"}, (800, 900)),
    ],
)
def test_control_groups_limit_it(tmp_path, membership, files, expected):
    for name, text in {"membership": membership, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host_memory(tmp_path, tmp_path / "membership") == expected


def test_without_a_limit_the_machine_counts(tmp_path):
    (tmp_path / "membership").write_text("0::/")
    (tmp_path / "memory.max").write_text("max")
    (tmp_path / "memory.current").write_text("700")
    assert host_memory(tmp_path, tmp_path / "membership").total_bytes > 2**28
