"""`quire run`: complete prompts, streaming; several run at once and are told in their order."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quire.cli.console import notes, out
from quire.cli.options import engine_options, sampling_options
from quire.cli.plan import describe_memory
from quire.cli.session import Meter, Summary, failures, open_session, sampling_params, stream
from quire.errors import QuireError

if TYPE_CHECKING:
    from rich.console import Console

    from quire.engine import Engine
    from quire.opening import OpenedEngine
    from quire.outputs import RequestOutput
    from quire.sampling import SamplingParams

MAX_TOKENS = 128


@sampling_options
@engine_options
def run(
    model: Annotated[str, typer.Argument(help="Model folder, installed model (demo), or Hugging Face id.")],
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts; without any, stdin is read.")] = None,
    *,
    settings: dict[str, Any],
    sampling: dict[str, Any],
    lines: Annotated[bool, typer.Option("--lines", help="Each line of stdin is a prompt of its own.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Put each prompt through the model's chat template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each prompt.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the text.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Also tell memory: as planned, and as a full step has it.")
    ] = False,
) -> None:
    """Complete one prompt or several at once, streaming the text to stdout."""
    texts = prompts or read_stdin(lines)
    console = notes()
    console.quiet = quiet
    with open_session(model, settings, console) as opened:
        engine = opened.engine
        params = sampling_params(engine, sampling, MAX_TOKENS, output_kind="final_only" if as_json else "delta")
        _add_all(engine, texts, params, chat)
        meter = Meter()
        outputs = _print_json(engine, meter) if as_json else _print_text(engine, texts, meter)
        console.print(f"[dim]{describe(meter.summary())}[/]")
        if stats:
            _print_memory(opened, console)
    causes = failures(outputs)
    if causes:
        raise QuireError(f"{len(causes)} of {len(texts)} requests failed: {causes[0]}")


def read_stdin(lines: bool) -> list[str]:
    """Return the prompts on stdin: the whole of it, or each line. Raise typer.BadParameter when there are none."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPTS")
    text = sys.stdin.read()
    found = [line for line in text.splitlines() if line.strip()] if lines else [text.removesuffix("\n")]
    if not any(found):
        raise typer.BadParameter("stdin is empty; give a prompt", param_hint="PROMPTS")
    return found


def describe(summary: Summary) -> str:
    """Return a run in one line."""
    cached = f" ({summary.cached_tokens} cached)" if summary.cached_tokens else ""
    return (
        f"{summary.output_tokens} tokens in {summary.seconds:.2f} s ({summary.tokens_per_s:.1f} tok/s), "
        f"first token {summary.first_token_s * 1e3:.0f} ms, prompt {summary.prompt_tokens} tokens{cached}"
    )


def _print_memory(opened: OpenedEngine, console: Console) -> None:
    from quire.bench.memory import memory_figures

    memory = memory_figures(opened)
    console.print(f"[dim]memory: {describe_memory(memory) if memory else 'not planned by the core'}[/]")


def _add_all(engine: Engine, texts: list[str], params: SamplingParams, chat: bool) -> None:
    for number, text in enumerate(texts):
        prompt = engine.intake.read_chat([{"role": "user", "content": text}]) if chat else text
        engine.add(str(number), prompt, params)


def _print_text(engine: Engine, texts: list[str], meter: Meter) -> list[RequestOutput]:
    """Print each answer when its turn has come: what arrives for a later prompt waits until those before are done."""
    console, last = out(), []
    printer = TurnPrinter(texts)
    for output in stream(engine):
        meter.watch(output)
        last.append(output)
        for piece in printer.pieces(output):
            console.print(piece, end="")
            console.file.flush()
    return [output for output in last if output.finished]


class TurnPrinter:
    """Turns interleaved deltas of several requests into pieces of text in the order of the prompts."""

    def __init__(self, prompts: list[str]) -> None:
        self._prompts = prompts
        self._texts: dict[str, list[str]] = {str(number): [] for number in range(len(prompts))}
        self._finished: set[str] = set()
        self._turn = 0
        self._begun = False

    def pieces(self, output: RequestOutput) -> list[str]:
        """Return what may be printed now."""
        self._texts[output.request_id] += [item.text for item in output.outputs]
        if output.finished:
            self._finished.add(output.request_id)
        pieces: list[str] = []
        while self._turn < len(self._prompts):
            pieces += self._take()
            if str(self._turn) not in self._finished:
                break
            pieces.append("\n")
            self._turn, self._begun = self._turn + 1, False
        return pieces

    def _take(self) -> list[str]:
        texts = self._texts[str(self._turn)]
        pieces = [text for text in texts if text]
        texts.clear()
        if len(self._prompts) > 1 and not self._begun:
            self._begun = True
            pieces.insert(0, f"== {self._prompts[self._turn]}\n")
        return pieces


def _print_json(engine: Engine, meter: Meter) -> list[RequestOutput]:
    import msgspec

    outputs = []
    for output in stream(engine):
        meter.watch(output)
        outputs.append(output)
    outputs.sort(key=lambda output: int(output.request_id))
    for output in outputs:
        print(msgspec.json.encode(output).decode())
    return outputs
