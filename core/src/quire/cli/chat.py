"""`quire chat`: talk to a model on the terminal, one that is loaded here or one that a server has."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.markup import escape

from quire.cli.console import notes, out
from quire.cli.options import engine_options, sampling_options
from quire.cli.run import describe
from quire.cli.session import Meter, Summary, open_session, sampling_params, stream
from quire.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from quire.engine import Engine
    from quire.sampling import SamplingParams

MAX_TOKENS = 512
HELP = "/exit leaves, /clear forgets the conversation, Ctrl-C stops an answer and, between answers, leaves"

Message = dict[str, str]


class Speaker(Protocol):
    """Whoever answers."""

    def speak(self, messages: list[Message]) -> Generator[str]:
        """Yield an answer's text as it comes; closing the generator ends it. Raise RequestError, KeyboardInterrupt."""

    def summary(self) -> Summary:
        """Say what the last answer took."""


@sampling_options
@engine_options
def chat(
    model: Annotated[
        str | None, typer.Argument(help="Model folder, installed model (demo), or Hugging Face id; a server's name.")
    ] = None,
    *,
    settings: dict[str, Any],
    sampling: dict[str, Any],
    system: Annotated[str | None, typer.Option(help="System message to begin with.")] = None,
    url: Annotated[str | None, typer.Option(help="Talk to a running server, e.g. http://127.0.0.1:8000.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The server's key.", envvar="QUIRE_API_KEY")] = None,
) -> None:
    """Chat with a model, here or on a server. /exit leaves, /clear starts anew; Ctrl-C stops an answer."""
    if url is not None:
        from quire.cli.chat_server import ServerSpeaker

        if settings:
            raise ConfigError(f"{', '.join(settings)} cannot be chosen with --url: the server runs already")
        converse(ServerSpeaker.connect(url, api_key, model, {"max_tokens": MAX_TOKENS, **sampling}), system)
        return
    if model is None:
        raise ConfigError("name a MODEL to load, or a running server with --url")
    with open_session(model, settings) as opened:
        params = sampling_params(opened.engine, sampling, MAX_TOKENS, output_kind="delta")
        converse(EngineSpeaker(opened.engine, params), system)


def converse(speaker: Speaker, system: str | None) -> None:
    """Read and answer, until /exit or the end of input. Raise KeyboardInterrupt on Ctrl-C between answers."""
    notes().print(f"[dim]{HELP}[/]")
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (said := read_line()) is not None and said != "/exit":
        if said == "/clear":
            messages = list(start)
        elif said == "/help":
            notes().print(HELP)
        elif said:
            messages = answer(speaker, [*messages, {"role": "user", "content": said}])


def read_line() -> str | None:
    """Return what the user typed, or None at the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401  gives `input` a history and line editing, where the platform has it
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None


def answer(speaker: Speaker, messages: list[Message]) -> list[Message]:
    """Stream an answer and return the conversation with it; where it was refused, without the last question."""
    console, pieces = out(), list[str]()
    try:
        with closing(speaker.speak(messages)) as texts:
            for text in texts:
                pieces.append(text)
                console.print(text, end="")
                console.file.flush()
    except RequestError as error:
        notes().print(f"[red]{escape(str(error))}[/]; /clear starts anew")
        return messages[:-1]
    except KeyboardInterrupt:
        notes().print("\n[dim]stopped[/]")
    else:
        notes().print(f"\n[dim]{describe(speaker.summary())}[/]")
    return [*messages, {"role": "assistant", "content": "".join(pieces)}]


class EngineSpeaker:
    """Answers with an engine of this process."""

    def __init__(self, engine: Engine, params: SamplingParams) -> None:
        self._engine = engine
        self._params = params
        self._meter = Meter()

    def speak(self, messages: list[Message]) -> Generator[str]:
        self._meter = Meter()
        self._engine.add("answer", self._engine.intake.read_chat(messages), self._params)
        for output in stream(self._engine):
            self._meter.watch(output)
            yield "".join(item.text for item in output.outputs)
            if output.outputs[0].finish_reason == "error":
                raise RequestError(str(output.outputs[0].stop_reason))

    def summary(self) -> Summary:
        return self._meter.summary()
