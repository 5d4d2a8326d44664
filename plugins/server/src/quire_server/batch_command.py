"""`quire run-batch`: answer a file of requests and write a file of answers."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quire.cli.console import notes
from quire.cli.options import engine_options
from quire.config import make_config
from quire.errors import ConfigError, QuireError
from quire_server.app import make_app
from quire_server.batch import Answer, answer_all
from quire_server.command import read_template
from quire_server.local import open_local
from quire_server.serving import make_frontend
from quire_server.settings import ServerSettings

AT_ONCE = 2  # requests handed to the engine for each row it has, so that none is free while lines are left


@engine_options
def run_batch(
    model: Annotated[str, typer.Argument(help="Model folder, installed model (demo), or Hugging Face id.")],
    *,
    settings: dict[str, Any],
    input_file: Annotated[Path, typer.Option("--input-file", "-i", help="Requests, one JSON object a line.")],
    output_file: Annotated[Path, typer.Option("--output-file", "-o", help="Where answers go, each when it is done.")],
    served_model_name: Annotated[list[str] | None, typer.Option(help="Names of the model in the file.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="File with a chat template, or a name of one.")] = None,
) -> None:
    """Answer a file of requests in OpenAI's batch format: completions, chats, embeddings. Fails if a line does."""
    told = ServerSettings(
        model_names=tuple(served_model_name or [model]), chat_template=read_template(chat_template), log_requests=False
    )
    with ExitStack() as stack:
        lines = stack.enter_context(_open(input_file, "rb"))
        output = stack.enter_context(_open(output_file, "wb"))
        tally = stack.enter_context(Tally(output, notes(), sum(1 for line in lines if line.strip())))
        lines.seek(0)
        tally.console.print(f"loading [bold]{escape(model)}[/] …")
        asyncio.run(_answer_file(make_config({"model": model, **settings}), told, lines, tally))
    tally.console.print(f"{tally.num_done} requests, {tally.num_failed} failed")
    if tally.num_failed:
        raise QuireError(
            f"{tally.num_failed} of {tally.num_done} requests failed; {output_file} says why, line by line"
        )


class Tally:
    """Writes answers and counts them, with a progress bar on a terminal."""

    def __init__(self, output: BinaryIO, console: Console, num_lines: int) -> None:
        self.console = console
        self.num_done = 0
        self.num_failed = 0
        self._output = output
        columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("answering", total=num_lines)

    def __enter__(self) -> Tally:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def write(self, answer: Answer) -> None:
        """Write an answer at once: what is done stays done whatever comes."""
        self._output.write(msgspec.json.encode(answer) + b"\n")
        self._output.flush()
        self.num_done += 1
        self.num_failed += answer.failed
        self._progress.advance(self._task)


async def _answer_file(config: Any, settings: ServerSettings, lines: BinaryIO, tally: Tally) -> None:
    client = await asyncio.to_thread(open_local, config)
    try:
        frontend = make_frontend(client, client.llm.engine.tokenizer, settings)
        await answer_all(make_app(frontend), lines, AT_ONCE * client.info.max_num_seqs, tally.write)
        if client.death is not None:
            raise client.death
    finally:
        await client.close()


def _open(path: Path, mode: str) -> Any:
    try:
        return path.open(mode)
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {error.strerror}") from error
