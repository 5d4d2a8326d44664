"""schemathesis over the server's own OpenAPI: no 5xx, no answer that the schema does not know, and nothing left behind.

Needs `schemathesis`: `nox -s fuzz`, which sends 5,000 cases and more; FUZZ_EXAMPLES says how many for each operation,
beside those that try each field's edges. Routes under /admin answer 401 here: pausing the server would end the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quire.config import make_config
from quire_server.remote import RemoteEngine

from .harness import serving

COMMAND = shutil.which("schemathesis", path=Path(sys.executable).parent)
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.timeout(1800)
@pytest.mark.skipif(COMMAND is None, reason="schemathesis is not installed: nox -s fuzz")
def test_no_case_breaks_the_server_or_its_schema(capsys):
    short = {"max_model_len": 64, "max_queued_requests": 64}  # short answers: many cases

    async def open_it():
        return await RemoteEngine.open(make_config({"model": "demo", "backend": "null", "num_blocks": 512, **short}))

    with serving(open_it, max_sequences=8, log_requests=False) as running:
        command = [COMMAND, "run", f"{running.url}/openapi.json", "--checks", CHECKS, "--seed", "1"]
        command += ["--max-examples", os.environ.get("FUZZ_EXAMPLES", "10"), "--phases", "examples,coverage,fuzzing"]
        command += ["--suppress-health-check", "all", "--request-timeout", "30"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
        with capsys.disabled():
            print(f"\n{done.stdout[-1500:]}")
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
        assert re.search(r"\d+ generated, \d+ passed", done.stdout), done.stdout[-1500:]
        assert running.get("/health").status_code == 200
        running.check_rest()
