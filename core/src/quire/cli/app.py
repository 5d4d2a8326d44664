"""The command line's frame: which commands there are, and what becomes of an error.

A command prints results to stdout and everything else to stderr. A QuireError is told in a few lines, the root cause
last, without a traceback unless `--debug` was given. Commands import what is heavy (torch) inside of their function.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from quire.cli import backends, bench, capabilities, chat, demo, doctor, plan, plugins, replay, run
from quire.errors import ConfigError, QuireError, RequestError

EXIT_FAILED = 1
EXIT_ASKED_WRONGLY = 2
EXIT_INTERRUPTED = 130
HELP = {"help_option_names": ["-h", "--help"]}

COMMANDS: tuple[Callable[..., None], ...] = (
    run.run,
    chat.chat,
    demo.demo,
    backends.backends,
    capabilities.capabilities,
    doctor.doctor,
    plan.plan,
    replay.replay,
)


class Flags:
    """What the options before the command say."""

    debug = False


def make_app() -> typer.Typer:
    """Return the command line as a typer app."""
    flags = Flags()
    app = typer.Typer(
        help="LLM inference and serving whose hardware is a plugin.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=HELP,
    )
    app.callback()(_root(flags))
    for command in COMMANDS:
        app.command(context_settings=HELP)(guarded(command, flags))
    benches = bench.make_app(lambda command: guarded(command, flags))
    for parent, group in ((app, plugins.COMMANDS), (benches, plugins.BENCH)):
        for name, function, hidden in plugins.plugin_commands(group):
            settings = {**HELP, "ignore_unknown_options": hidden}
            parent.command(name, hidden=hidden, context_settings=settings)(guarded(function, flags))
    app.add_typer(benches, name="bench")
    return app


def guarded(command: Callable[..., None], flags: Flags) -> Callable[..., None]:
    """Return the command with errors told briefly and turned into exit codes."""

    @functools.wraps(command)
    def run_command(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except QuireError as error:
            if flags.debug:
                raise
            report(error)
            raise typer.Exit(exit_code(error)) from None

    return run_command


def report(error: BaseException) -> None:
    """Tell an error on stderr: what caused it, the root first, then the message, which says what to do, last."""
    console = Console(stderr=True, highlight=False)
    message, *causes = _chain(error)
    for cause in reversed(causes):
        console.print(f"[red]cause:[/] {_plain(cause)}", soft_wrap=True)
    console.print(f"[bold red]error:[/] {_plain(message)}", soft_wrap=True)


def exit_code(error: QuireError) -> int:
    """Return 2 where the question was wrong, 1 where the answer failed."""
    return EXIT_ASKED_WRONGLY if isinstance(error, ConfigError | RequestError) else EXIT_FAILED


def _root(flags: Flags) -> Callable[..., None]:
    def root(
        version: Annotated[
            bool, typer.Option("--version", "-V", help="Print the version and leave.", callback=_version, is_eager=True)
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and log what is done.")] = False,
    ) -> None:
        flags.debug = debug
        _log_to_stderr(logging.DEBUG if debug else logging.WARNING)

    return root


def _version(wanted: bool) -> None:
    if wanted:
        from quire import __version__

        print(f"quire {__version__}")
        raise typer.Exit


def _log_to_stderr(level: int) -> None:
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=level < logging.WARNING)
    logger = logging.getLogger("quire")
    logger.handlers[:] = [handler]
    logger.setLevel(level)


def _chain(error: BaseException) -> Iterator[str]:
    """Yield messages from the error to its root cause; a cause whose words were told already is not told twice.

    Of causes the first line: what libraries write below it is advice for their own users, which --debug shows.
    """
    told = str(error) or type(error).__name__
    yield told
    while (cause := error.__cause__) is not None:
        words = " ".join(str(cause).strip().partition("\n")[0].split())
        text = f"{type(cause).__name__}: {words}" if words else type(cause).__name__
        if words not in " ".join(told.split()):
            yield text
        told, error = told + text, cause


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
