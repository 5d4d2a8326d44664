"""The control plane imports no torch, even while it runs on the null backend."""

import subprocess
import sys

RUN = """
import sys
import quire.sampling
from quire.scheduling import blocks, recording, replay, request, scheduler
from quire.backend import null_manifest
from quire.bench.scheduler import Load, measure

null_manifest.probe()
measure(Load(2, 1), num_steps=3)
heavy = {"torch", "transformers", "tokenizers", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""


def test_scheduling_needs_no_torch():
    subprocess.run([sys.executable, "-c", RUN], check=True)


def test_the_manifest_needs_the_standard_library_alone():
    code = (
        "import sys, quire.backend.null_manifest as m; m.probe();"
        "assert not {'torch', 'numpy', 'pluggy', 'msgspec'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
