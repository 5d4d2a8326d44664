"""Who may import what: the control plane no torch, a plugin only the public modules of quire, the core no plugin."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core/src/quire"
PLUGIN_SOURCES = [path for folder in ("backends", "kernels") for path in sorted((ROOT / folder).glob("*/src/**/*.py"))]

CONTROL_PLANE = (
    "quire.async_llm",
    "quire.backend.discovery",
    "quire.backend.manager",
    "quire.backend.null",
    "quire.cli.app",
    "quire.config",
    "quire.engine",
    "quire.execution.memory",
    "quire.llm",
    "quire.models.registry",
    "quire.models.resolve",
    "quire.opening",
    "quire.ops.table",
    "quire.scheduling.replay",
    "quire.scheduling.scheduler",
)
PUBLIC = (
    "quire.backend.accelerator.collectives",
    "quire.backend.accelerator.device",
    "quire.backend.accelerator.graphs",
    "quire.backend.accelerator.mapped_memory",
    "quire.backend.accelerator.regions",
    "quire.backend.contract",
    "quire.backend.hookspecs",
    "quire.backend.host_device",
    "quire.backend.host_memory",
    "quire.backend.probing",
    "quire.config",
    "quire.errors",
    "quire.execution.parts",
    "quire.models.spec",
    "quire.ops.spec",
    "quire.plan",
    "quire.sampling",
)
"""What a backend may stand on."""


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute names of modules that a file imports, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield node.module or ""


@pytest.mark.parametrize("module", CONTROL_PLANE)
def test_the_control_plane_imports_no_torch(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_quire_imports_almost_nothing():
    code = "import sys, quire; print([name for name in ('torch', 'numpy', 'rich', 'msgspec') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", PLUGIN_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_only_public_modules_of_quire(path):
    private = [name for name in imports(path) if name.split(".")[0] == "quire" and name not in PUBLIC]
    assert not private, f"not public: {private}"


def test_the_core_imports_no_plugin():
    found = [
        f"{path.relative_to(CORE)} imports {name}"
        for path in sorted(CORE.rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0].startswith("quire_")
    ]
    assert not found


def test_nothing_imports_torch_into_a_backend_manifest():
    manifests = sorted((ROOT / "backends").glob("*/src/*/manifest.py"))
    for path in manifests:
        code = f"import sys, {path.parent.name}.manifest as manifest; manifest.probe(); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "No module named" in done.stderr or done.stdout.strip() == "False", path


@pytest.mark.parametrize("folder", ["backends", "conformance", "core", "docs", "kernels", "plugins", "tests"])
def test_top_level_folders_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists(), "transformers probes for packages of such names"
