"""`quire chat`: talk to a model on the terminal."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from quire.cli.console import notes, out
from quire.cli.options import engine_options, sampling_options
from quire.cli.run import describe
from quire.cli.session import Meter, open_session, sampling_params, stream
from quire.errors import RequestError

if TYPE_CHECKING:
    from quire.engine import Engine
    from quire.sampling import SamplingParams

MAX_TOKENS = 512
HELP = "/exit leaves, /clear forgets the conversation, Ctrl-C stops an answer and, between answers, leaves"

Message = dict[str, str]


@sampling_options
@engine_options
def chat(
    model: Annotated[str, typer.Argument(help="Model folder, installed model (demo), or Hugging Face id.")],
    *,
    settings: dict[str, Any],
    sampling: dict[str, Any],
    system: Annotated[str | None, typer.Option(help="System message to begin with.")] = None,
) -> None:
    """Chat with a model. /exit leaves, /clear starts anew; Ctrl-C stops an answer."""
    with open_session(model, settings) as opened:
        params = sampling_params(opened.engine, sampling, MAX_TOKENS, output_kind="delta")
        notes().print(f"[dim]{HELP}[/]")
        converse(opened.engine, params, system)


def converse(engine: Engine, params: SamplingParams, system: str | None) -> None:
    """Read and answer, until /exit or the end of input. Raise KeyboardInterrupt on Ctrl-C between answers."""
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (said := read_line()) is not None and said != "/exit":
        if said == "/clear":
            messages = list(start)
        elif said == "/help":
            notes().print(HELP)
        elif said:
            messages = answer(engine, params, [*messages, {"role": "user", "content": said}])


def read_line() -> str | None:
    """Return what the user typed, or None at the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401  gives `input` a history and line editing, where the platform has it
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None


def answer(engine: Engine, params: SamplingParams, messages: list[Message]) -> list[Message]:
    """Stream an answer and return the conversation with it; where it was refused, without the last question."""
    meter, pieces = Meter(), list[str]()
    try:
        engine.add("answer", engine.intake.read_chat(messages), params)
        _stream_text(engine, meter, pieces)
    except RequestError as error:
        notes().print(f"[red]{escape(str(error))}[/]; /clear starts anew")
        return messages[:-1]
    except KeyboardInterrupt:
        notes().print("\n[dim]stopped[/]")
    else:
        notes().print(f"\n[dim]{describe(meter.summary())}[/]")
    return [*messages, {"role": "assistant", "content": "".join(pieces)}]


def _stream_text(engine: Engine, meter: Meter, pieces: list[str]) -> None:
    console = out()
    for output in stream(engine):
        meter.watch(output)
        text = "".join(item.text for item in output.outputs)
        pieces.append(text)
        console.print(text, end="")
        console.file.flush()
        if output.outputs[0].finish_reason == "error":
            raise RequestError(str(output.outputs[0].stop_reason))
