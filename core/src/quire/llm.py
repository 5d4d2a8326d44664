"""LLM: a model as a function. Give all prompts at once, get all answers; the engine batches them.

>>> with LLM("demo") as llm:
...     for output in llm.generate(["The sea", "The hills"], SamplingParams(max_tokens=8)):
...         print(output.outputs[0].text)
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quire.config import make_config
from quire.engine import Engine
from quire.errors import QueueFullError, RequestError
from quire.intake import Admitted, Pooling, Prompt, PromptLike
from quire.interrupts import DeferredInterrupt
from quire.opening import open_engine
from quire.outputs import EmbeddingOutput, RequestOutput, ScoreOutput, as_embedding
from quire.sampling import OutputKind, SamplingParams
from quire.scoring import make_score_prompt, read_score, score_params
from quire.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, Any]]


class LLM:
    """A model on this machine. Not thread-safe; for many callers at once there is `AsyncLLM`."""

    def __init__(self, model: str, **settings: Any) -> None:
        """Open `model`: a folder, an installed model's name, or a Hugging Face id. `settings` are EngineConfig's.

        Raise ConfigError, BackendError, ModelError, CapacityError.
        """
        self._open(open_engine(make_config({"model": model, **settings})))

    @classmethod
    def from_engine(cls, engine: Engine) -> Self:
        """Wrap an engine that is open already, and own it."""
        self = cls.__new__(cls)
        self._open(engine)
        return self

    def _open(self, engine: Engine) -> None:
        self.engine = engine
        self._num_requests = 0
        self._finalizer = weakref.finalize(self, engine.shutdown)

    # -- what it does --------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete one prompt or many; return one output for each, in their order.

        `sampling_params` are one for all or one for each; None means the model's own defaults. `use_tqdm` shows a
        progress bar on a terminal. A request that fails while it runs has finish_reason "error", and the others go on.
        Raise RequestError, before anything runs, on a prompt that cannot be served; EngineDeadError.
        """
        return self._run(self._admit_all(as_list(prompts), sampling_params), "generating", use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation or many, each a list of ``{"role": …, "content": …}``.

        `template_options` go to the chat template: chat_template, add_generation_prompt, continue_final_message, tools,
        and variables of its own. Raise RequestError where the model has no chat template.
        """
        many = bool(messages) and not isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Messages]", messages if many else [messages])
        prompts = [self.engine.intake.read_chat(item, **template_options) for item in conversations]
        return self._run(self._admit_all(prompts, sampling_params), "generating", use_tqdm)

    def score(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        continuations: PromptLike | Sequence[PromptLike],
        *,
        use_tqdm: bool = True,
    ) -> list[ScoreOutput]:
        """Return how likely each continuation is after its prompt; one prompt may serve all continuations.

        Texts are joined before they become tokens, so a continuation begins with a space where it should. Raise
        RequestError where a prompt or a continuation has no token.
        """
        tails = as_list(continuations)
        heads = as_list(prompts)
        heads = heads * len(tails) if len(heads) == 1 else heads
        if len(heads) != len(tails):
            raise RequestError(f"there are {len(heads)} prompts and {len(tails)} continuations; give one for each")
        pairs = [make_score_prompt(head, tail, self.engine) for head, tail in zip(heads, tails, strict=True)]
        admitted = self._admit_all([pair.whole for pair in pairs], score_params())
        outputs = self._run(admitted, "scoring", use_tqdm)
        return [read_score(pair, output) for pair, output in zip(pairs, outputs, strict=True)]

    def embed(
        self, prompts: PromptLike | Sequence[PromptLike], *, pooling: Pooling = "last", use_tqdm: bool = True
    ) -> list[EmbeddingOutput]:
        """Return each prompt's final hidden states, pooled: the last token's, or the mean of all.

        Raise RequestError where the executor cannot give them.
        """
        admitted = [self.engine.admit_embedding(self._next_id(), prompt, pooling) for prompt in as_list(prompts)]
        return [as_embedding(output) for output in self._run(admitted, "embedding", use_tqdm)]

    # -- what it is ----------------------------------------------------------------------------------------------------

    def get_default_sampling_params(self) -> SamplingParams:
        """Return what the model's generation_config.json advises, to change with `msgspec.structs.replace`."""
        return self.engine.defaults.sampling_params()

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raise RequestError where the model has none."""
        if self.engine.tokenizer is None:
            raise RequestError("the model's folder holds no tokenizer; open it with tokenizer=FOLDER_OR_NAME")
        return self.engine.tokenizer

    def close(self) -> None:
        """Stop the executor and give its memory back. May be called twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _admit_all(
        self,
        prompts: Sequence[PromptLike | Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[Admitted]:
        """Check all before any runs, so that one bad prompt costs nothing."""
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            each: Sequence[SamplingParams | None] = [sampling_params] * len(prompts)
        else:
            each = sampling_params
        if len(each) != len(prompts):
            raise RequestError(f"there are {len(prompts)} prompts and {len(each)} sampling_params; give one for each")
        return [self._admit(prompt, params) for prompt, params in zip(prompts, each, strict=True)]

    def _admit(self, prompt: PromptLike | Prompt, params: SamplingParams | None) -> Admitted:
        prompt = self.engine.intake.read_prompt(prompt)
        params = params or self.engine.default_params(prompt)
        final_only = msgspec.structs.replace(params, output_kind=OutputKind.FINAL_ONLY)
        return self.engine.admit(self._next_id(), prompt, final_only)

    def _next_id(self) -> str:
        self._num_requests += 1
        return str(self._num_requests - 1)

    def _run(self, admitted: Sequence[Admitted], label: str, use_tqdm: bool) -> list[RequestOutput]:
        done: dict[str, RequestOutput] = {}
        waiting = deque(admitted)
        with DeferredInterrupt() as interrupt, _show_progress(use_tqdm) as progress:
            task = progress.add_task(label, total=len(admitted))
            try:
                while len(done) < len(admitted):
                    interrupt.check()
                    self._feed(waiting)
                    done.update((output.request_id, output) for output in self.engine.step())
                    progress.update(task, completed=len(done))
            except BaseException:
                self._abandon(admitted)
                raise
        self.engine.drain()
        _report_errors(done.values())
        return [done[item.request_id] for item in admitted]

    def _feed(self, waiting: deque[Admitted]) -> None:
        """Queue as many as the queue takes; the rest follow when others have left it. An idle engine is given no more
        than fills its first steps: the others are queued while those run."""
        config, facts = self.engine.config, self.engine.facts
        room = math.inf if self.engine.has_work else facts.max_in_flight * config.max_num_batched_tokens
        while waiting and room > 0:
            try:
                self.engine.enqueue(waiting[0])
            except QueueFullError:
                if not self.engine.has_work:
                    raise
                return
            room -= len(waiting.popleft().prompt.token_ids)

    def _abandon(self, admitted: Sequence[Admitted]) -> None:
        for item in admitted:
            self.engine.abort(item.request_id)
        self.engine.drain()


def as_list(prompts: PromptLike | Sequence[PromptLike]) -> list[PromptLike]:
    """Return one prompt as a list of one; a list of integers is one prompt."""
    if isinstance(prompts, str | Mapping) or not hasattr(prompts, "__len__"):  # the latter is refused where it is read
        return [cast("PromptLike", prompts)]
    if len(prompts) > 0 and not _is_prompt(prompts[0]):
        return [cast("PromptLike", prompts)]
    return list(cast("Sequence[PromptLike]", prompts))


def _is_prompt(item: object) -> bool:
    return isinstance(item, str | Mapping | Sequence) or hasattr(item, "__len__")


def _show_progress(wanted: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (wanted and console.is_terminal))


def _report_errors(outputs: Any) -> None:
    for output in outputs:
        for completion in output.outputs:
            if completion.finish_reason == "error":
                log.error("request %s, completion %d: %s", output.request_id, completion.index, completion.stop_reason)
