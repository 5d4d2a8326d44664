"""Hold the POWER kernels to the conformance suite without a POWER machine: `nox -s ppc64le`, or

python backends/ppc64le/tests/check_emulated.py [--isa power8,power9,power10] [--level 0..7] [--report FILE]

Compiles the libraries with Debian's cross compiler by the package's own setup.py, and runs `quire conformance --backend
ppc64le` with them executed by qemu; Python and torch are this machine's. All levels are run on the last of the
instruction sets, which is the one of the report, and level 3, the ops, on the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CXX, QEMU = "powerpc64le-linux-gnu-g++", "qemu-ppc64le-static"
PACKAGES = "apt install g++-powerpc64le-linux-gnu qemu-user-static"
QUIRE = "from quire.cli import main; main()"


class Suite(NamedTuple):
    """One run: instruction set, levels, and the arguments that ask for a report."""

    isa: str
    level: str
    report: Sequence[str]


def main() -> None:
    """Parse the arguments, build, run. Exit code 1: something does not conform."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", default="power8,power9,power10")
    parser.add_argument("--level", default="0..7", help="levels of the last instruction set")
    parser.add_argument("--report", type=Path, help="file to write of the last instruction set")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/ppc64le", help="where to build")
    arguments = parser.parse_args()
    check_tools()
    folder = arguments.folder.resolve()
    build(folder)
    codes = [run_suite(folder, suite) for suite in suites(arguments)]
    sys.exit(int(any(codes)))


def check_tools() -> None:
    """Exit with what to install where the compiler or the emulator is missing."""
    missing = [tool for tool in (CXX, QEMU) if shutil.which(tool) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found: {PACKAGES}")


def build(folder: Path) -> None:
    """Compile the libraries and the driver, and announce the emulated backend as pip would."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "QUIRE_CPU_MACHINE": "ppc64le", "CXX": CXX, "CC": CXX.replace("g++", "gcc")}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", folder / "temp", "--build-lib", folder]
    subprocess.run(command, cwd=ROOT / "kernels/cpu", env=environment, check=True)
    driver = ["-std=c++17", "-O2", "-Wall", "-Wextra", HERE / "emulated/driver.cpp", "-ldl"]
    subprocess.run([CXX, *driver, "-o", folder / "quire_kernels_cpu/driver"], check=True)
    announced = folder / f"site/quire_ppc64le-{metadata.version('quire')}.dist-info"
    announced.mkdir(parents=True, exist_ok=True)
    (announced / "METADATA").write_text(f"Name: quire-ppc64le\nVersion: {metadata.version('quire')}\n")
    (announced / "entry_points.txt").write_text("[quire.backends]\nppc64le = emulated.manifest\n")


def suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """Yield the runs, the one of the report last."""
    *others, last = arguments.isa.split(",")
    yield from (Suite(isa, "3", []) for isa in others)
    yield Suite(last, arguments.level, ["--report", str(arguments.report)] if arguments.report else [])


def run_suite(folder: Path, suite: Suite) -> int:
    """Run the suite in a process that sees the emulated backend in the place of the installed one."""
    path = os.pathsep.join(map(str, [folder / "site", HERE, ROOT / "backends/ppc64le/src"]))
    environment = {**os.environ, "PYTHONPATH": path, "QUIRE_EMULATED": str(folder / "quire_kernels_cpu")}
    options = ["--backend-option", f"isa={suite.isa}", "--backend-option", "threads=1"]
    command = ["conformance", "--backend", "ppc64le", "--level", suite.level, *options, *suite.report]
    print(f"== {suite.isa}, level {suite.level}", flush=True)
    return subprocess.run([sys.executable, "-c", QUIRE, *command], env=environment, check=False).returncode


if __name__ == "__main__":
    main()
