"""`quire --version` must answer at once: what it imports is counted, since a clock would depend on the machine."""

import importlib.metadata
import subprocess
import sys

import quire

MODULES_AFTER = "import sys; sys.argv = ['quire', {flag!r}]; from quire.cli import main; main(); print(*sys.modules)"


def test_version_imports_next_to_nothing():
    command = [sys.executable, "-c", MODULES_AFTER.format(flag="--version")]
    version, modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
    added = set(modules.split()) - set(bare.stdout.split())
    assert version == f"quire {quire.__version__}"
    assert added == {"quire", "quire.cli", "__future__"}


def test_version_is_told_among_other_options_too(quire):
    version = importlib.metadata.version("quire")
    result = quire("--debug", "--version")
    assert (result.exit_code, result.stdout) == (0, f"quire {version}\n")
