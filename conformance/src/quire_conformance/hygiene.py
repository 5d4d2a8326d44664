"""What importing and opening a backend does to a process, seen from a fresh one.

`python -m quire_conformance.hygiene manifest NAME` and `… opening NAME OPTIONS` run in a process of their own and say
what they saw as JSON on the last line of stdout. Nothing heavy is imported here before the first look.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire_conformance.target import Target

MARK = "quire-conformance-look:"
TIMEOUT_S = 240
SHOWN = 8
CORE_NOT_LOOKED_AT = ("quire.cli", "quire.bench", "quire.models.transformers")
LIGHT = ("quire", "pluggy")  # the core's contract; and a sibling of the backend's, as long as it is light itself
HEAVY_CORE = ("quire.ops.reference", "quire.models.decoder", "quire.execution", "quire.engine", "quire.llm")


@dataclass(frozen=True)
class ManifestLook:
    """`foreign`: top-level modules that are neither the standard library's, the core's nor the plugin's own."""

    error: str = ""
    foreign: tuple[str, ...] = ()
    stable: bool = True
    changed: tuple[str, ...] = ()
    printed: str = ""


@dataclass(frozen=True)
class OpeningLook:
    """What opening changed: environment variables, the process's and torch's settings, functions of the core."""

    name: str = ""
    error: str = ""
    environment: tuple[str, ...] = ()
    process: tuple[str, ...] = ()
    patched: tuple[str, ...] = ()
    printed: str = ""


# -- from the outside -------------------------------------------------------------------------------------------------

_seen: dict[tuple[str, ...], Mapping[str, Any]] = {}


def look_at_manifest(target: Target) -> ManifestLook:
    """Import and probe the target's manifest in a fresh process."""
    return ManifestLook(**_look("manifest", target.name))


def look_at_opening(target: Target) -> OpeningLook:
    """Open the target and its device in a fresh process."""
    return OpeningLook(**_look("opening", target.name, json.dumps(dict(target.settings.options))))


def _look(*arguments: str) -> Mapping[str, Any]:
    if arguments not in _seen:
        command = [sys.executable, "-m", "quire_conformance.hygiene", *arguments]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
        printed, mark, seen = done.stdout.partition(MARK)
        failure = {"error": (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]}
        _seen[arguments] = {**json.loads(seen), "printed": printed.strip()} if mark else failure
    return _seen[arguments]


def child_environment() -> dict[str, str]:
    """Return the environment of a process that imports what this one can."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


# -- from the inside --------------------------------------------------------------------------------------------------


def inside_manifest(name: str) -> ManifestLook:
    """Look at a manifest. Runs in a process that has imported nothing else."""
    from quire.backend import discovery

    before, state = set(sys.modules), _process_state()
    outcomes = [[repr(candidate.outcome) for candidate in discovery.discover(only=name)] for _ in range(2)]
    found = discovery.discover(only=name)
    if not found or isinstance(found[0].outcome, discovery.Broken | discovery.Barred):
        return ManifestLook(error=found[0].reason if found else f"no backend {name!r} is installed")
    own = {found[0].plugin.partition(".")[0].partition(":")[0]}
    new = {module.partition(".")[0] for module in set(sys.modules) - before}
    heavy = {module for module in set(sys.modules) - before if module.startswith(HEAVY_CORE)}
    foreign = {module for module in new - own if module not in sys.stdlib_module_names} | heavy
    shown = sorted(module for module in foreign if module in heavy or not module.startswith(("_", *LIGHT)))
    changed = tuple(_changes(state, _process_state()))
    return ManifestLook("", tuple(shown[:SHOWN]), outcomes[0] == outcomes[1], changed)


def inside_opening(name: str, options: Mapping[str, str]) -> OpeningLook:
    """Look at what opening the backend and its device changes."""
    import torch

    core = dict(_core_functions())
    environment, state = dict(os.environ), {**_process_state(), **_torch_state(torch)}
    from quire.backend.manager import open_backend, select

    try:
        backend = open_backend(select(name, options, allow=[name]), allow=[name])  # nobody else's doing counts
        after_import = {**_process_state(), **_torch_state(torch)}
        backend.open_device()
        from quire.ops.records import OPS

        if not backend.has_hook("quire_create_executor"):
            backend.create_table(OPS)
    except Exception as error:
        return OpeningLook(error=" ".join(f"{type(error).__name__}: {error}".split()))
    process = [*_changes(state, after_import), *_changes(_less_threads(state), _less_threads(_now(torch)))]
    patched = tuple(name for name, function in _core_functions() if core.get(name, function) is not function)
    changed = tuple(_changes(environment, dict(os.environ)))
    return OpeningLook(name, "", changed, tuple(dict.fromkeys(process)), patched)


def _now(torch: ModuleType) -> dict[str, Any]:
    return {**_process_state(), **_torch_state(torch)}


def _less_threads(state: Mapping[str, Any]) -> dict[str, Any]:
    """A device of processors chooses how many threads compute, when it is opened and not before."""
    return {name: value for name, value in state.items() if name != "torch.get_num_threads()"}


def _process_state() -> dict[str, Any]:
    handlers = {
        f"the handler of {item.name}": str(signal.getsignal(item)) for item in signal.Signals if item.name != "SIGCLD"
    }
    return {
        "the working directory": os.getcwd(),  # noqa: PTH109
        "sys.path": list(sys.path),
        "the number of threads": threading.active_count(),
        "sys.excepthook": id(sys.excepthook),
        "the recursion limit": sys.getrecursionlimit(),
        **handlers,
    }


def _torch_state(torch: Any) -> dict[str, Any]:
    return {
        "torch.get_default_dtype()": str(torch.get_default_dtype()),
        "torch.get_default_device()": str(torch.get_default_device()),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch's random state": torch.initial_seed(),
    }


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield f"{name} from {_short(old)} to {_short(new)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _core_functions() -> Iterator[tuple[str, Any]]:
    """Yield every function and class of the core, and the functions of those classes, by dotted name."""
    import importlib
    import pkgutil

    import quire

    for found in pkgutil.walk_packages(quire.__path__, "quire."):
        if found.name.startswith(CORE_NOT_LOOKED_AT):
            continue
        module = importlib.import_module(found.name)
        for name, item in vars(module).items():
            if callable(item) and str(getattr(item, "__module__", "")).startswith("quire."):
                yield f"{found.name}.{name}", item
                yield from _methods(f"{found.name}.{name}", item)
            elif callable(item) and not name.startswith("__"):
                yield f"{found.name}.{name}", item


def _methods(name: str, item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, type):
        yield from ((f"{name}.{method}", function) for method, function in vars(item).items() if callable(function))


INSIDE: Mapping[str, Callable[..., Any]] = {
    "manifest": inside_manifest,
    "opening": lambda name, options: inside_opening(name, json.loads(options)),
}

if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    print(MARK + json.dumps(asdict(INSIDE[kind](*rest))), flush=True)
