"""A report: what was run on which backend, what came out, with figures. JSON is the source; the rest is drawn."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.errors import ConfigError
from quire_conformance.settings import LEVELS

if TYPE_CHECKING:
    from quire.backend.contract import KernelRequest
    from quire.ops.spec import Op
    from quire_conformance.target import Target

FORMATS = (".json", ".md", ".html")
IN_PARTS = "in parts"  # an optional op that the backend has no kernel of


@dataclass(frozen=True)
class TestRecord:
    """One test. `message` says why it failed, why that was expected, or which claim is not made."""

    __test__ = False  # for pytest: this is no test class

    id: str
    outcome: str  # passed, failed, expected failure, not claimed
    seconds: float
    message: str = ""
    figures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def level(self) -> int:
        return int(self.id.partition("::")[0].removeprefix("level"))

    @property
    def title(self) -> str:
        """Return the test's name as a sentence."""
        name, bracket, parameters = self.id.partition("::")[2].partition("[")
        sentence = name.removeprefix("test_").replace("_", " ")
        return f"{sentence} ({parameters.removesuffix(']')})" if bracket else sentence


@dataclass(frozen=True)
class Report:
    """Everything that one run found."""

    backend: str
    distribution: str
    quire: str
    suite: str
    torch: str
    python: str
    machine: str
    device: str
    support: str
    levels: list[int]
    caps: dict[str, Any]
    kernels: dict[str, dict[str, str]]
    """Who serves each op: op → dtype → providers, for the ops' own test inputs."""
    tests: list[TestRecord]

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something ran."""
        return bool(self.tests) and not self.failures

    @property
    def failures(self) -> list[TestRecord]:
        return [test for test in self.tests if test.outcome == "failed"]

    def counts(self, level: int) -> Counter[str]:
        """Return how many tests of a level had each outcome."""
        return Counter(test.outcome for test in self.tests if test.level == level)

    def seconds(self, level: int) -> float:
        return sum(test.seconds for test in self.tests if test.level == level)

    def verdict(self, level: int) -> str:
        """Return "passed", "failed" or "not run" for a level."""
        counts = self.counts(level)
        if counts["failed"]:
            return "failed"
        return "passed" if counts["passed"] or counts["expected failure"] else "not run"

    def figures(self, name: str) -> Iterator[dict[str, Any]]:
        for test in self.tests:
            yield from (figure for figure in test.figures if figure["name"] == name)


def describe_target(target: Target) -> dict[str, Any]:
    """Return the report's facts about the backend and the machine."""
    from quire.backend import discovery

    found = discovery.discover(only=target.name)
    facts = {
        "backend": target.name,
        "distribution": found[0].distribution if found else "",
        "quire": metadata.version("quire"),
        "suite": metadata.version("quire-conformance"),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return facts | _opened_facts(target)


def _opened_facts(target: Target) -> dict[str, Any]:
    try:
        caps = asdict(target.caps)
        device = target.device.name
    except Exception as error:
        return {"device": f"{error}", "support": "", "levels": [0], "caps": {}, "kernels": {}}
    caps["features"] = sorted(caps["features"])
    kernels = {} if target.own_executor else _providers(target)
    support = target.profile.support
    return {"device": device, "support": support, "levels": list(target.levels), "caps": caps, "kernels": kernels}


def _providers(target: Target) -> dict[str, dict[str, str]]:
    from quire.ops.records import OPS

    served: dict[str, dict[str, str]] = {}
    for op in OPS:
        for dtype in (name for name in op.dtypes if name in target.caps.dtypes or len(op.dtypes) == 1):
            found = (_provider(target, op, case.request) for case in op.cases(dtype, 0))
            served.setdefault(op.name, {})[dtype] = ", ".join(dict.fromkeys(found))
    return served


def _provider(target: Target, op: Op, request: KernelRequest) -> str:
    if op.optional and not target.table.serves(request):
        return IN_PARTS
    return target.table.resolve(request).provider


# -- files -------------------------------------------------------------------------------------------------------------


def check_format(path: Path) -> None:
    """Raise ConfigError on a file name that says no known format."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"a report cannot be written as {path.name!r}; its name must end in {', '.join(FORMATS)}")


def write_report(report: Report, path: Path) -> None:
    """Write the report as its file's name says. Raise ConfigError as `check_format` does."""
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(report) if path.suffix == ".json" else draw(report, path.suffix))


def to_json(report: Report) -> str:
    return json.dumps(asdict(report), indent=1, sort_keys=True, default=str) + "\n"


def read_report(path: Path) -> Report:
    """Read a report that was written as JSON."""
    values: Mapping[str, Any] = json.loads(path.read_text())
    return Report(**{**values, "tests": [TestRecord(**test) for test in values["tests"]]})


def draw(report: Report, suffix: str) -> str:
    """Return the report as Markdown or HTML."""
    import jinja2

    loader = jinja2.PackageLoader("quire_conformance", "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=suffix == ".html",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(f"report{suffix}.jinja").render(
        report=report, levels=LEVELS, ratios=ratio_bars(report)
    )


def ratio_bars(report: Report) -> list[dict[str, Any]]:
    """Return the worst error ratio of each op and dtype, with its bound and the bar's length in percent."""
    return [
        {**figure, "percent": min(100.0, 100.0 * float(figure["value"]) / (float(figure["bound"]) or 1.0))}
        for figure in report.figures("error ratio")
    ]
