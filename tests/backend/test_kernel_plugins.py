"""Extra kernel plugins (group `quire.kernels`) go before the backend, and a bad one is left out as a whole."""

import logging

import pytest

from quire.backend.contract import KernelRequest
from quire.backend.manager import OpenBackend, open_backend, select
from quire.ops.records import OPS
from quire.ops.table import KernelTable

HEADER = """
from quire.backend.contract import Kernel
from quire.backend.hookspecs import hookimpl
"""
HOOK = """

@hookimpl
def quire_register_kernels(table):
"""
MANIFEST = """
from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "{package}.plugin"
BACKENDS = ("chip", "other")


def probe():
    return {probe}
"""
REQUEST = KernelRequest("silu_and_mul", "float32")


def kernel(op: str = "silu_and_mul", provider: str = "extra", priority: int = 200) -> str:
    return f"    table.register(Kernel({op!r}, {provider!r}, abs, ('float32',), priority={priority}))\n"


def add_extra(site, body: str, manifest: str = MANIFEST, **arguments) -> str:
    return site.add("extra", group="quire.kernels", manifest=manifest, plugin=HEADER + HOOK + body, **arguments)


def opened(site) -> OpenBackend:
    registers = "\n\n@hookimpl\ndef quire_register_kernels(table):\n" + kernel(provider="chip", priority=100)
    hook = registers.replace("\n", "\n    ").replace("(table)", "(self, table)")
    plugin = site.plugin.replace("\n\nhooks = Hooks()", hook + "\n\nhooks = Hooks()")
    site.add("chip", plugin="from quire.backend.contract import Kernel\n" + plugin)
    return open_backend(select("chip"))


def providers(table: KernelTable) -> list[str]:
    return table.providers("silu_and_mul")


def test_layers_are_reference_then_backend_then_extra(site):
    add_extra(site, kernel())
    table = opened(site).create_table(OPS)
    assert providers(table) == ["extra", "chip", "reference"]
    assert table.resolve(REQUEST).provider == "extra"


def test_every_op_falls_back_to_the_reference(site):
    table = opened(site).create_table(OPS)
    assert all("reference" in table.providers(op.name) for op in OPS)


def test_an_extra_for_other_backends_is_not_imported(site):
    package = add_extra(site, kernel(), manifest=MANIFEST.replace('"chip", "other"', '"other",'))
    (plugin,) = opened(site).kernel_plugins
    assert plugin.reason == "it is for other, not chip"
    assert site.imported(package) == {"manifest"}


def test_backends_that_are_no_tuple_are_broken(site):
    add_extra(site, kernel(), manifest=MANIFEST.replace('("chip", "other")', '"chip"'))
    (plugin,) = opened(site).kernel_plugins
    assert plugin.reason == "broken: its BACKENDS is 'chip'; it must be a tuple of names"


def test_an_absent_extra_is_listed_with_its_reason(site):
    add_extra(site, kernel(), probe="Absent('needs the x3 compiler')")
    backend = opened(site)
    assert [plugin.reason for plugin in backend.kernel_plugins] == ["absent: needs the x3 compiler"]
    assert providers(backend.create_table(OPS)) == ["chip", "reference"]


@pytest.mark.parametrize(
    "body",
    [
        kernel() + "    raise OSError('no compiler')\n",
        kernel() + kernel(op="no_such_op"),
        kernel() + kernel(),
        kernel() + kernel(op="rms_norm", provider="reference"),
        kernel() + "    table.register('a kernel')\n",
    ],
)
def test_an_extra_that_fails_midway_leaves_nothing_behind(site, caplog, body):
    add_extra(site, body)
    with caplog.at_level(logging.WARNING):
        assert providers(opened(site).create_table(OPS)) == ["chip", "reference"]
    assert "quire-extra 0.1.0 is left out" in caplog.text


def test_an_extra_with_other_hooks_is_broken(site, caplog):
    add_extra(site, kernel() + "\n\n@hookimpl\ndef quire_create_executor(context):\n    return None\n")
    (plugin,) = opened(site).kernel_plugins
    assert "has quire_create_executor; a kernel plugin may have only" in plugin.reason


def test_an_extra_is_allowed_only_by_name(site, monkeypatch):
    package = add_extra(site, kernel())
    monkeypatch.setenv("QUIRE_BACKENDS_ALLOW", "chip")
    (plugin,) = opened(site).kernel_plugins
    assert plugin.reason == "not allowed: the allow-list names chip"
    assert site.imported(package) == set()
