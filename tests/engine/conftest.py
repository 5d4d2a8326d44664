"""Tokenizers made in the test process: byte-level BPE as GPT-2's, and byte fallback as Llama 2's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from quire.backend.contract import ExecutorFacts, ScheduleConstraints
from quire.config import make_config
from quire.engine import Engine
from quire.errors import ModelError
from quire.models.resolve import resolve_path
from quire.plan import NewRow, StepPlan, StepResult, TokenLogprobs
from quire.text.generation_config import GenerationDefaults
from quire.text.tokenizer import Tokenizer, load_tokenizer

CORPUS = (
    "the quick brown fox jumps over the lazy dog; it does so once, twice, three times",
    "one token after another, a text grows: héllo wörld, naïve café, 你好世界, привет",
    "stop. stop! STOP? END of text\n\nnew paragraph </tool> and <tool> calls",
)
SPECIALS = ("<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_byte_level_backend() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def make_byte_fallback_backend() -> Backend:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehlortw", "▁a"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return backend


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    named = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    return Tokenizer(make_byte_level_backend(), named_tokens=named, chat_templates={"default": CHAT_TEMPLATE})


@pytest.fixture(scope="session")
def demo_tokenizer() -> Tokenizer:
    """The demo model's, where it is installed."""
    try:
        return load_tokenizer(resolve_path("demo"))
    except ModelError as error:
        pytest.skip(f"the demo model is not installed: {error}")


@pytest.fixture(scope="session")
def byte_fallback_tokenizer() -> Tokenizer:
    return Tokenizer(make_byte_fallback_backend(), named_tokens={"eos_token": "</s>"})


@pytest.fixture(scope="session")
def word_tokenizer() -> Tokenizer:
    """Whole words, joined by spaces in decoding."""
    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend)


# -- an executor that says what a test tells it to ---------------------------------------------------------------------


@dataclass
class ScriptedExecutor:
    """Serves plans in plain Python: output token i of a row is `script(seat, i)`.

    `seat` is the row's NewRow. A script that raises RowFailure fails that row; any other exception fails the step.
    `delay_s` is slept in every collect, as a device would take its time.
    """

    script: Callable[[NewRow, int], int]
    facts: ExecutorFacts
    delay_s: float = 0.0
    embeds: bool = True
    seats: dict[int, NewRow] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    num_submitted: int = 0
    num_collected: int = 0
    most_in_flight: int = 0
    stopped: bool = False

    def start(self) -> ExecutorFacts:
        return self.facts

    def submit(self, plan: StepPlan) -> StepResult:
        self.num_submitted += 1
        self.most_in_flight = max(self.most_in_flight, self.num_submitted - self.num_collected)
        for row in plan.freed_rows:
            del self.seats[row], self.tokens[row]
        for new in plan.new_rows:
            assert new.row not in self.seats, f"row {new.row} is taken"
            self.seats[new.row], self.tokens[new.row] = new, new.token_ids.tolist()
        return self._compute(plan)

    def collect(self, ticket: StepResult) -> StepResult:
        time.sleep(self.delay_s)
        self.num_collected += 1
        return ticket

    def read_kv(self, layer: int, block_ids: Sequence[int]) -> Any:
        raise NotImplementedError("there is no KV here")

    def memory_report(self) -> Mapping[str, int]:
        return {}

    def stop(self) -> None:
        self.stopped = True

    def _compute(self, plan: StepPlan) -> StepResult:
        result = StepResult(plan.step, tuple(self._sample(plan, index) for index in range(len(plan.rows))))
        for index, row in enumerate(plan.rows.tolist()):
            self._look(plan, result, index, self.seats[row])
        return result

    def _sample(self, plan: StepPlan, index: int) -> tuple[int, ...]:
        row = int(plan.rows[index])
        seat, tokens = self.seats[row], self.tokens[row]
        end = int(plan.starts[index] + plan.counts[index])
        assert end <= len(tokens), f"row {row} has {len(tokens)} tokens, {end} are to be computed"
        if not plan.samples[index] or seat.pooling:
            return ()
        assert end == len(tokens), f"row {row} samples in the middle"
        try:
            token = self.script(seat, len(tokens) - seat.prompt_len)
        except RowFailure:
            token = 0
        tokens.append(token)
        return (token,)

    def _look(self, plan: StepPlan, result: StepResult, index: int, seat: NewRow) -> None:
        tokens, start = self.tokens[seat.row], int(plan.starts[index])
        end = start + int(plan.counts[index])
        if seat.sampling.prompt_logprobs is not None:
            known = tokens[start + 1 : min(end + 1, seat.prompt_len)]
            result.prompt_logprobs[index] = tuple(make_logprobs(token, 0) for token in known)
        if self.embeds and seat.pooling and end == seat.prompt_len:
            result.embeddings[index] = np.array([1.0, seat.prompt_len], np.float32)
        if seat.sampling.logprobs is not None and result.token_ids[index]:
            result.logprobs[index] = (make_logprobs(tokens[-1], seat.sampling.logprobs),)
        if plan.samples[index] and not seat.pooling:
            try:
                self.script(seat, len(tokens) - seat.prompt_len - 1)
            except RowFailure as error:
                result.errors[index] = str(error)


class RowFailure(Exception):
    """What a script raises to fail its row."""


def make_logprobs(token: int, count: int) -> TokenLogprobs:
    """Token t has the logprob -t / 100; the best ones are tokens 0, 1, …."""
    ids = [token, *range(count)]
    return TokenLogprobs(np.array(ids, np.int32), np.array(ids, np.float32) / -100, token + 1)


class OpenScripted(Protocol):
    def __call__(
        self,
        script: Callable[[NewRow, int], int],
        *,
        in_flight: int = ...,
        num_blocks: int = ...,
        delay_s: float = ...,
        with_tokenizer: bool = ...,
        **settings: Any,
    ) -> Engine: ...


@pytest.fixture
def open_scripted(tokenizer: Tokenizer) -> OpenScripted:
    """Open an engine on a ScriptedExecutor; `engine.executor` is that."""

    def open_(
        script: Callable[[NewRow, int], int],
        *,
        in_flight: int = 2,
        num_blocks: int = 64,
        delay_s: float = 0.0,
        with_tokenizer: bool = True,
        **settings: Any,
    ) -> Engine:
        facts = ExecutorFacts(num_blocks, 4, 0, 32, 100, ScheduleConstraints(), in_flight)
        executor = ScriptedExecutor(script, facts, delay_s)
        config = make_config({"model": "scripted", "max_num_seqs": 32, "max_num_batched_tokens": 64, **settings})
        defaults = GenerationDefaults(frozenset({1}))
        found = tokenizer if with_tokenizer else None
        return Engine(executor, executor.start(), config, found, vocab_size=400, defaults=defaults)

    return open_


@pytest.fixture
def say(tokenizer: Tokenizer) -> Callable[[str], Callable[[NewRow, int], int]]:
    """Return what makes a script of a text: its tokens, then end of sequence for ever."""

    def make(text: str) -> Callable[[NewRow, int], int]:
        ids = tokenizer.encode(text)
        return lambda seat, index: ids[index] if index < len(ids) else 1

    return make


@pytest.fixture(params=[1, 2], ids=["plain", "overlapped"])
def in_flight(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def row_failure() -> type[RowFailure]:
    return RowFailure


# -- a model folder for the core's own backends ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A tiny Llama's config, to be filled with dummy weights, and the byte-level tokenizer with its chat template."""
    folder = tmp_path_factory.mktemp("tiny")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 400,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    named = {name: tokenizer.named_tokens[name] for name in ("bos_token", "eos_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 3], "top_k": 50, "max_new_tokens": 9})
    )
    return folder
