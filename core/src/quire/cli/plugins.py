"""Commands that other distributions bring: entry points of group `quire.commands`, each a typer command function; those
of `quire.bench` are commands of `quire bench`.

One that cannot be imported is told when it is asked for and takes no other down; one that is known and not installed
says what to type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, NamedTuple

import typer

from quire.errors import ConfigError

COMMANDS, BENCH = "quire.commands", "quire.bench"
KNOWN: Mapping[str, Mapping[str, str]] = {
    COMMANDS: {"conformance": "conformance", "new-backend": "conformance", "run-batch": "server", "serve": "server"},
    BENCH: {"serve": "server"},
}
"""By group: commands by the extra of quire that brings them."""


class PluginCommand(NamedTuple):
    """A command, and the name it goes by. One that only says why it is not there takes any arguments."""

    name: str
    function: Callable[..., Any]
    hidden: bool = False


def plugin_commands(group: str) -> Iterator[PluginCommand]:
    """Yield the installed commands of a group, then those that could be."""
    found = {entry.name: entry for entry in entry_points(group=group)}
    yield from (_load(found[name]) for name in sorted(found))
    for name in sorted(KNOWN[group].keys() - found.keys()):
        command = f"quire {'bench ' if group == BENCH else ''}{name}"
        hint = f"`{command}` is not installed; type: pip install 'quire[{KNOWN[group][name]}]'"
        yield PluginCommand(name, _refusing(hint), hidden=True)


def _load(entry: EntryPoint) -> PluginCommand:
    try:
        return PluginCommand(entry.name, entry.load())
    except Exception as error:  # a plugin may fail in any way; it is named and the others go on
        why = f"the command {entry.name!r} ({entry.value}) cannot be imported: {type(error).__name__}: {error}"
        return PluginCommand(entry.name, _refusing(why), hidden=True)


def _refusing(why: str) -> Callable[..., None]:
    def refuse(rest: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise ConfigError(why)

    return refuse
