"""Put one plugin on a relay of its own, and check what its hooks are and what they answer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from quire.backend import hookspecs
from quire.backend.discovery import describe_error
from quire.errors import BackendError, QuireError

if TYPE_CHECKING:
    from quire.sampling import SamplingParams

T = TypeVar("T")


def relay(who: str, target: str, required: Sequence[str], only: Sequence[str] | None = None) -> Any:
    """Import the plugin named by `target` and return pluggy's relay with it alone on it.

    `only` limits the hooks it may have. Raises BackendError when it cannot be imported, when a hook is missing,
    unknown, unmarked or takes arguments that the contract does not give.
    """
    plugin = _import_plugin(who, target)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    _check_names(who, plugin, only)
    try:
        manager.register(plugin, who)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise BackendError(f"{who} does not fit the contract: {' '.join(str(error).split())}") from error
    missing = [name for name in required if not getattr(manager.hook, name).get_hookimpls()]
    if missing:
        raise BackendError(f"{who} ({target}) lacks the required hooks {', '.join(missing)}")
    return manager.hook


def _import_plugin(who: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        plugin = importlib.import_module(module)
        for name in attribute.split(".") if attribute else ():
            plugin = getattr(plugin, name)
        return plugin() if inspect.isclass(plugin) else plugin
    except (Exception, SystemExit) as error:
        raise BackendError(f"{who} cannot be imported from {target!r}: {describe_error(error)}") from error


def _check_names(who: str, plugin: Any, only: Sequence[str] | None) -> None:
    """Refuse functions called `quire_…` that pluggy would pass over in silence: unmarked, or not a hook's name."""
    hooks = [name for name in dir(hookspecs) if hasattr(getattr(hookspecs, name), f"{hookspecs.PROJECT}_spec")]
    for name in dir(plugin):
        if not (name.startswith("quire_") and inspect.isroutine(getattr(plugin, name))):
            continue
        if name not in hooks:
            near = get_close_matches(name, hooks, n=1, cutoff=0)
            raise BackendError(f"{who} has {name}, which is no hook; did you mean {near[0]}?")
        if not hasattr(getattr(plugin, name), f"{hookspecs.PROJECT}_impl"):
            raise BackendError(f"{who} has {name} without @hookimpl; mark it with quire.backend.hookspecs.hookimpl")
        if only is not None and name not in only:
            raise BackendError(f"{who} has {name}; a kernel plugin may have only {', '.join(only)}")


def call(who: str, hooks: Any, hook: str, **arguments: Any) -> Any:
    """Call a hook. Raise BackendError naming it, if it raises anything but a QuireError."""
    try:
        return getattr(hooks, hook)(**arguments)
    except QuireError:
        raise
    except Exception as error:
        raise BackendError(f"{who}: {hook} raised {describe_error(error)}") from error


def ask(who: str, hooks: Any, hook: str, kind: type[T], **arguments: Any) -> T:
    """Call a hook that must answer with a `kind`."""
    return expect(who, hook, call(who, hooks, hook, **arguments), kind)


def ask_optional(who: str, hooks: Any, hook: str, kind: type[T], **arguments: Any) -> T | None:
    """Call a hook that answers with a `kind`, or with None where the plugin leaves it to the core."""
    answer = call(who, hooks, hook, **arguments)
    return None if answer is None else expect(who, hook, answer, kind)


def reasons_against(who: str, hooks: Any, params: SamplingParams) -> list[str]:
    """Return a backend's own reasons to refuse a request. Raise BackendError as `call` does."""
    answers = call(who, hooks, "quire_validate_request", params=params)
    return [str(reason) for reasons in answers for reason in reasons or ()]


def expect(who: str, hook: str, answer: Any, kind: type[T]) -> T:
    """Return the answer. Raise BackendError naming the hook if it is no `kind`, and what it lacks of a protocol."""
    if isinstance(answer, kind):
        return answer
    lacks = f" (it lacks {', '.join(_missing(answer, kind))})" if getattr(kind, "_is_protocol", False) else ""
    raise BackendError(f"{who}: {hook} returned {shorten(answer)}, not {kind.__name__}{lacks}")


def shorten(value: Any) -> str:
    """Return a value and its type in a few words."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"


def _missing(answer: Any, protocol: type) -> list[str]:
    members = {*vars(protocol), *getattr(protocol, "__annotations__", ())}
    return sorted(name for name in members if not name.startswith("_") and not hasattr(answer, name))
