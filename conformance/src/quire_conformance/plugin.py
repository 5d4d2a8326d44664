"""The pytest plugin: collects `conformance.toml`. Installed with the distribution; a vendor's side of it is that file.

It is loaded into every pytest run where the distribution is installed, so it imports next to nothing: the suite, and
torch with it, are imported when a `conformance.toml` is met.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("quire_conformance.levels")

FILE_NAME = "conformance.toml"
SUITE = "quire-conformance-suite"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quire conformance")
    group.addoption("--conformance-report", metavar="FILE", help="write the suite's report: .json, .md or .html")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "claims(name): mandatory where the backend claims it, not run where it does not")
    path = config.getoption("--conformance-report", None)
    if path:
        from quire_conformance.recorder import Recorder

        config.pluginmanager.register(Recorder(Path(path)), "quire-conformance-recorder")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != FILE_NAME:
        return None
    from quire_conformance import suite
    from quire_conformance.collection import ConformanceFile

    plugins = parent.config.pluginmanager
    if not plugins.has_plugin(SUITE):
        plugins.register(suite, SUITE)
    return ConformanceFile.from_parent(parent, path=file_path)
