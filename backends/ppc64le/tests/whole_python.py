"""Run the demo model in an emulated Python with torch, ppc64le throughout, and compare its tokens with this machine's.

python backends/ppc64le/tests/whole_python.py SYSROOT --libraries build/ppc64le/quire_kernels_cpu

Takes minutes, most of them to import torch. `check_emulated.py` builds the libraries. SYSROOT holds Debian trixie's
ppc64el packages python3-torch, python3-msgspec, python3-jinja2, python3-yaml, python3-regex, python3-httpx and what
they depend on, fetched by `apt-get --download-only` with APT::Architecture "ppc64el" and unpacked by `dpkg-deb -x`. In
it, lib and lib64 are links to usr/lib and usr/lib64, and wheels holds the unpacked ppc64le wheels of tokenizers and
safetensors. Debian's Python and torch are other versions than Quire supports; kernels can be judged nevertheless.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOKENS = """
import json, sys
from quire import LLM, SamplingParams
with LLM("demo", backend=sys.argv[1], dtype="float32", max_num_seqs=2, max_model_len=64) as llm:
    outputs = llm.generate(["import os\\n", "The list of all"], SamplingParams(temperature=0, max_tokens=16))
print(json.dumps([list(output.outputs[0].token_ids) for output in outputs]))
"""
DISTRIBUTIONS = ("core", "kernels/cpu", "backends/ppc64le", "plugins/demo-model")


def main() -> None:
    """Parse the arguments and compare. Exit code 1: other tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sysroot", type=Path)
    parser.add_argument("--libraries", type=Path, required=True)
    parser.add_argument("--cpu", default="power10")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), arguments.libraries)
        emulated = run(emulator(arguments.sysroot.resolve(), Path(folder), arguments.cpu), "ppc64le")
    here = run([sys.executable], "reference")
    print(f"emulated {emulated}\nhere     {here}")
    sys.exit(int(emulated != here))


def install(site: Path, libraries: Path) -> None:
    """Copy the packages and the libraries to one folder, with the metadata that announces them."""
    for folder in DISTRIBUTIONS:
        shutil.copytree(ROOT / folder / "src", site, ignore=shutil.ignore_patterns("*.so"), dirs_exist_ok=True)
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        groups = project.get("entry-points", {}).items()
        lines = [line for group, entries in groups for line in (f"[{group}]", *map(" = ".join, entries.items()))]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
    for library in libraries.glob("*.so"):
        shutil.copy(library, site / "quire_kernels_cpu")


def emulator(root: Path, site: Path, cpu: str) -> list[str]:
    """Return the command of the emulated Python. What is pure Python and not Debian's comes from this environment."""
    wheels, debian, here = root / "wheels", root / "usr/lib/python3/dist-packages", sysconfig.get_path("purelib")
    libraries = root / "usr/lib/powerpc64le-linux-gnu"
    folders = ("", "openblas-pthread", "blas", "lapack")
    settings = {
        "PYTHONHOME": root / "usr",
        "PYTHONPATH": os.pathsep.join(map(str, [site, wheels, debian, here])),
        "LD_LIBRARY_PATH": os.pathsep.join(str(libraries / name) for name in folders),
        "OMP_NUM_THREADS": "1",
    }
    variables = [argument for name, value in settings.items() for argument in ("-E", f"{name}={value}")]
    return ["qemu-ppc64le-static", "-cpu", cpu, "-L", str(root), *variables, str(root / "usr/bin/python3.13")]


def run(python: list[str], backend: str) -> list[list[int]]:
    """Return the tokens that a Python chooses on a backend."""
    done = subprocess.run([*python, "-c", TOKENS, backend], stdout=subprocess.PIPE, text=True, check=True)
    tokens: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return tokens


if __name__ == "__main__":
    main()
