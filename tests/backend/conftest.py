"""A site of made-up distributions, and nothing else installed: discovery is tested on what it finds there."""

import importlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

MANIFEST = """
from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "{package}.plugin:hooks"


def probe():
    return {probe}
"""

PLUGIN = """
from quire.backend import contract
from quire.backend.hookspecs import hookimpl


class Hooks:
    @hookimpl
    def quire_describe(self, selection):
        return contract.BackendCaps(
            device_type="cpu",
            dtypes=("float32",),
            kv_dtypes=("float32",),
            memory=contract.MemoryModel.UNIFIED,
            shapes=contract.ShapeMode.DYNAMIC,
            graphs=contract.GraphLevel.NONE,
            max_in_flight=1,
            features=frozenset(),
            deterministic=True,
        )

    @hookimpl
    def quire_open_device(self, selection, rank):
        return "no device"

    @hookimpl
    def quire_kv_constraints(self, model):
        return contract.KVConstraints((16,))

    @hookimpl
    def quire_conformance_profile(self):
        return contract.ConformanceProfile()


hooks = Hooks()
"""


class Site:
    """A folder on `sys.path` that holds distributions as pip would leave them. `plugin` keeps the contract."""

    plugin = PLUGIN

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(
        self,
        name: str,
        *,
        probe: str = "Found(10)",
        manifest: str = MANIFEST,
        plugin: str = PLUGIN,
        group: str = "quire.backends",
        dist: str = "",
    ) -> str:
        """Install a distribution that offers the plugin `name`; return the name of its package."""
        dist = dist or f"quire-{name}"
        package = dist.replace("-", "_") + "_made_up"
        folder = self._root / package
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "manifest.py").write_text(manifest.format(package=package, probe=probe))
        (folder / "plugin.py").write_text(plugin)
        self.add_metadata(dist, f"[{group}]\n{name} = {package}.manifest\n")
        return package

    def add_metadata(self, dist: str, entry_points: str = "", requires: tuple[str, ...] = ()) -> None:
        """Install only the metadata of a distribution."""
        folder = self._root / f"{dist.replace('-', '_')}-0.1.0.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {dist}", "Version: 0.1.0", *(f"Requires-Dist: {r}" for r in requires)]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        (folder / "entry_points.txt").write_text(entry_points)
        importlib.invalidate_caches()

    def imported(self, package: str) -> set[str]:
        """Return which modules of a package have been imported."""
        return {name.removeprefix(f"{package}.") for name in sys.modules if name.startswith(f"{package}.")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    standard_library = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib") + "/lib-dynload"]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *standard_library])
    monkeypatch.delenv("QUIRE_BACKENDS_ALLOW", raising=False)
    yield Site(tmp_path)
    for name in [name for name in sys.modules if "_made_up" in name]:
        del sys.modules[name]
