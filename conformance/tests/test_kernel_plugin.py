"""A kernel plugin, group `quire.kernels`: one op of somebody else's backend, overridden by installing a package."""

import json

import pytest

MANIFEST = """
from quire.backend.contract import Found

API = (1, 0)
PLUGIN = "fast_norm.plugin"
BACKENDS = ("reference",)


def probe():
    return Found(0)
"""
PLUGIN = """
import torch

from quire.backend.contract import Kernel
from quire.backend.hookspecs import hookimpl


def rms_norm(x, weight, eps):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return ((wide * scale) * weight.float()).to(x.dtype)


def reasons(request):
    size = request.attributes.get("hidden_size")
    return [f"hidden_size {size} is no multiple of 16"] if size and size % 16 else []


@hookimpl
def quire_register_kernels(table):
    table.register(Kernel("rms_norm", "fast-norm", rms_norm, ("float32", "bfloat16"), reasons, priority=200))
"""
LOOK = """
import json
from quire.backend.contract import KernelRequest
from quire_conformance.settings import Settings
from quire_conformance.target import Target
from quire_conformance.workloads import mixed

target = Target(Settings("reference"))
asked = {"64": ("float32", 64), "80": ("bfloat16", 80), "97": ("float32", 97), "half": ("float16", 64)}
found = {}
for name, (dtype, size) in asked.items():
    resolution = target.table.resolve(KernelRequest("rms_norm", dtype, {"hidden_size": size}))
    found[name] = [resolution.provider, [reason for item in resolution.passed_over for reason in item.reasons]]
print("found:" + json.dumps({**found, "tokens": target.tokens(mixed(target)[:3])}))
"""


@pytest.fixture
def site(make_site):
    folder = make_site("quire-fast-norm", "quire.kernels", **{"fast-norm": "fast_norm.manifest"})
    package = folder / "fast_norm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "manifest.py").write_text(MANIFEST)
    (package / "plugin.py").write_text(PLUGIN)
    return folder


def look(in_process, *path):
    done = in_process(["-c", LOOK], *path)
    assert "found:" in done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout.rpartition("found:")[2])


def test_an_installed_kernel_serves_where_it_can_and_says_why_where_it_cannot(in_process, site):
    with_plugin, without = look(in_process, site), look(in_process)
    assert with_plugin["64"] == ["fast-norm", []]
    assert with_plugin["80"] == ["fast-norm", []]
    assert with_plugin["97"] == ["reference", ["hidden_size 97 is no multiple of 16"]]
    assert with_plugin["half"] == ["reference", ["serves float32, bfloat16, not float16"]]
    assert without["64"] == ["reference", []]
    assert with_plugin["tokens"] == without["tokens"]


@pytest.mark.timeout(600)
def test_the_suite_judges_it_as_part_of_the_backend(conformance, failures, site):
    report = conformance("reference", "3", site)
    assert not failures(report)
    assert set(report["kernels"]["rms_norm"]["float32"].split(", ")) == {"fast-norm", "reference"}
