"""Run the suite on seeded bugs. `python mutations.py REPORT.md [NAME…]` runs all, or those, and writes the report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from seeded_bugs.catalogue import Bug

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
TIMEOUT_S = 1500
MARK = "report:"
BROKEN = "TypeError|AttributeError|NameError|ImportError"
RUN = f"""
import json, sys
from quire_conformance.command import run_suite
from quire_conformance.report import to_json
from quire_conformance.settings import Settings

for name, level, select in json.loads(sys.argv[1]):
    options = {{"max_in_flight": "2"}} if "in-flight" in name else {{}}
    report = run_suite(Settings(name, (level,), options), ["-k", select] if select else [], quiet=True)
    print("\\n{MARK}" + to_json(report).replace("\\n", " "), flush=True)
"""


class Caught(NamedTuple):
    """What the suite said of one bug: ids and messages of the tests that failed, and how many ran."""

    failures: dict[str, str]
    num_tests: int

    def names(self, cause: str) -> bool:
        """Say whether a message holds the cause."""
        return bool(self.by(cause))

    def by(self, cause: str) -> dict[str, str]:
        """Return the tests whose message holds the cause; a bug whose code is broken by itself proves nothing."""
        sound = {name: text for name, text in self.failures.items() if not re.search(BROKEN, text)}
        return {name: text for name, text in sound.items() if re.search(cause, text, re.DOTALL)}


def run_bugs(bugs: Sequence[Bug], site: Path) -> dict[str, Caught]:
    """Run each bug's part of its level. Bugs of level 0 change the process that they are in, so each has its own."""
    alone = [[bug] for bug in bugs if bug.level == 0]
    together = [bug for bug in bugs if bug.level > 0]
    groups = [*alone, together] if together else alone
    return {bug.name: caught for group in groups for bug, caught in zip(group, _run(group, site), strict=True)}


def _run(bugs: Sequence[Bug], site: Path) -> list[Caught]:
    from site_of_bugs import backend_of

    path = os.pathsep.join([str(site), str(HERE), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    asked = json.dumps([(backend_of(bug), bug.level, bug.select) for bug in bugs])
    command = [sys.executable, "-c", RUN, asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if len(found) < len(bugs):
        raise AssertionError(f"the suite did not run on {bugs[len(found)].name}: {done.stderr[-3000:]}")
    return [_read(report["tests"]) for report in found]


def _read(tests: list[dict[str, str]]) -> Caught:
    failures = {test["id"]: test["message"] for test in tests if test["outcome"] == "failed"}
    return Caught(failures, sum(test["outcome"] != "not claimed" for test in tests))


# -- the report --------------------------------------------------------------------------------------------------------


def report_lines(bugs: Sequence[Bug], found: dict[str, Caught]) -> Iterator[str]:
    """Yield the table: what caught each bug, and what it says. Paths are the repository's, on any machine."""
    yield from ["| level | bug | caught | by | it says |", "| --- | --- | --- | --- | --- |"]
    for bug in bugs:
        caught = found[bug.name]
        right = caught.by(bug.says)
        by, message = next(iter((right or caught.failures).items()), ("", ""))
        words = " ".join(without_places(message).split())[:140].replace("|", "\\|")
        yield f"| {bug.level} | {bug.name} | {'yes' if right else 'NO'} | {by.partition('[')[0]} | {words} |"


def without_places(message: str) -> str:
    """Return the message with paths relative to the repository, the environment or the folder of temporary files."""
    for folder in (REPOSITORY, sys.prefix, sys.base_prefix, tempfile.gettempdir()):
        message = message.replace(f"{folder}/", "").replace(str(folder), ".")
    return message


def main(report: Path, names: Sequence[str]) -> int:
    """Write the report; return 1 if a bug got through."""
    sys.path.insert(0, str(HERE))
    from seeded_bugs.catalogue import CATALOGUE
    from site_of_bugs import write_site

    bugs = [bug for bug in CATALOGUE if not names or bug.name in names]
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder))
        found = run_bugs(bugs, Path(folder))
    caught = sum(found[bug.name].names(bug.says) for bug in bugs)
    title = f"# Seeded bugs: {caught} of {len(bugs)} caught, each at its level\n"
    report.write_text("\n".join([title, *report_lines(bugs, found)]) + "\n")
    return 0 if caught == len(bugs) else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
