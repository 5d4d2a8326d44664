"""A tokenizer comes from the model's folder, without transformers where the folder allows it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from quire.errors import ModelError, RequestError
from quire.text.generation_config import read_generation_defaults
from quire.text.tokenizer import LONG_TEXT, Tokenizer, load_tokenizer

MESSAGES = [{"role": "user", "content": "fox"}]
NAMED = {"bos_token": "<|bos|>", "eos_token": {"__type": "AddedToken", "content": "<|eos|>", "special": True}}


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, **NAMED)
    return tmp_path


def write(folder: Path, name: str = "tokenizer_config.json", **settings: Any) -> None:
    (folder / name).write_text(json.dumps(settings))


class TestLoading:
    def test_text_survives_encoding_and_decoding(self, folder: Path) -> None:
        loaded = load_tokenizer(folder)
        assert loaded.decode(loaded.encode("naïve 😀 fox")) == "naïve 😀 fox"

    def test_eos_and_vocabulary_are_known(self, folder: Path) -> None:
        loaded = load_tokenizer(folder)
        assert loaded.eos_token_id == 1
        assert loaded.vocab_size == loaded.backend.get_vocab_size()
        assert loaded.special_tokens[0] == "<|bos|>"

    def test_a_plain_folder_needs_no_transformers_and_no_torch(self, folder: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from quire.text.tokenizer import load_tokenizer;"
            "load_tokenizer(Path(sys.argv[1])).encode('fox');"
            "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True)

    def test_padding_and_truncation_in_the_file_are_turned_off(self, folder: Path) -> None:
        backend = load_tokenizer(folder).backend
        backend.enable_truncation(2)
        backend.enable_padding(length=5)
        backend.save(str(folder / "tokenizer.json"))
        assert len(load_tokenizer(folder).encode("!!!!!!!!")) == 8

    @pytest.mark.parametrize(
        "settings", [{}, {"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": False}]
    )
    @pytest.mark.parametrize("file_adds_bos", [True, False])
    def test_tokens_are_those_of_transformers(
        self, folder: Path, settings: dict[str, bool], file_adds_bos: bool
    ) -> None:
        from transformers import AutoTokenizer

        if file_adds_bos:
            backend = load_tokenizer(folder).backend
            backend.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
            backend.save(str(folder / "tokenizer.json"))
        write(folder, **NAMED, **settings, tokenizer_class="PreTrainedTokenizerFast")
        oracle = AutoTokenizer.from_pretrained(folder)
        for text in ("naïve 😀 fox", "", "<|user|>the dog"):
            assert load_tokenizer(folder).encode(text) == oracle(text).input_ids

    def test_a_token_that_only_the_settings_have_is_added(self, folder: Path) -> None:
        write(folder, **NAMED, pad_token="<|pad|>", tokenizer_class="PreTrainedTokenizerFast")
        loaded = load_tokenizer(folder)
        assert loaded.decode(loaded.encode("a<|pad|>"), skip_special_tokens=False) == "a<|pad|>"
        assert loaded.decode(loaded.encode("a<|pad|>")) == "a"

    def test_no_tokenizer_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(
            ModelError, match=r"holds no tokenizer.*tokenizer=FOLDER_OR_NAME, or give prompts as token ids"
        ):
            load_tokenizer(tmp_path)

    def test_a_broken_file_is_named(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(ModelError, match="cannot be read"):
            load_tokenizer(folder)

    def test_broken_settings_are_named(self, folder: Path) -> None:
        (folder / "tokenizer_config.json").write_text("[1]")
        with pytest.raises(ModelError, match="tokenizer_config.json holds a list"):
            load_tokenizer(folder)


def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode("half a pair: \ud800")


def test_a_long_text_has_the_ids_of_a_short_one(tokenizer: Tokenizer) -> None:
    text = "the fox jumps over the dog " * (LONG_TEXT // 20)
    assert len(text) > LONG_TEXT
    assert tokenizer.encode(text) == tokenizer.encode_with_offsets(text).token_ids
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode(text + "\ud83d")


def test_other_threads_run_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    text = "the fox jumps over the dog " * 40_000
    encoding = threading.Thread(target=tokenizer.encode, args=(text,))
    began = time.perf_counter()
    encoding.start()
    turns = 0
    while encoding.is_alive():
        time.sleep(0.001)
        turns += 1
    seconds = time.perf_counter() - began
    assert turns > 1 and turns > seconds / 0.1, f"{turns} turns in {seconds:.2f} s"


class TestChat:
    def test_the_template_writes_the_conversation(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.render_chat(MESSAGES) == "<|bos|><|user|>fox<|assistant|>"

    def test_the_generation_prompt_can_be_left_out(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.render_chat(MESSAGES, add_generation_prompt=False) == "<|bos|><|user|>fox"

    def test_the_final_message_can_be_continued(self, tokenizer: Tokenizer) -> None:
        messages = [*MESSAGES, {"role": "assistant", "content": "is"}]
        text = tokenizer.render_chat(messages, continue_final_message=True)
        assert text == "<|bos|><|user|>fox<|assistant|>is"

    def test_a_template_of_the_callers_wins(self, tokenizer: Tokenizer) -> None:
        template = "{{ messages[0].content }}{{ x }}{{ y }}"
        assert tokenizer.render_chat(MESSAGES, chat_template=template, x=1, chat_template_kwargs={"y": 2}) == "fox12"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("tokenizer_config.json", json.dumps({"chat_template": "T"})),
            ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": "T"}]})),
            ("chat_template.json", json.dumps({"chat_template": "T"})),
            ("chat_template.jinja", "T"),
        ],
    )
    def test_templates_are_found_wherever_folders_keep_them(self, folder: Path, name: str, content: str) -> None:
        (folder / name).write_text(content)
        assert load_tokenizer(folder).render_chat(MESSAGES) == "T"

    def test_tools_choose_the_template_for_them(self, folder: Path) -> None:
        write(folder, chat_template=[{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}])
        loaded = load_tokenizer(folder)
        assert loaded.render_chat(MESSAGES, tools=[{"type": "function", "function": {"name": "f"}}]) == "U"
        assert loaded.render_chat(MESSAGES) == "D"

    def test_a_missing_template_says_what_to_do(self, folder: Path) -> None:
        with pytest.raises(RequestError, match="no chat template; pass one as chat_template="):
            load_tokenizer(folder).render_chat(MESSAGES)

    @pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{% if %}", "{{ 1 + 'a' }}"])
    def test_what_a_template_refuses_is_a_request_error(self, tokenizer: Tokenizer, template: str) -> None:
        with pytest.raises(RequestError, match="the chat template refuses these messages"):
            tokenizer.render_chat(MESSAGES, chat_template=template)

    def test_messages_must_be_objects(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(RequestError, match="refuses these messages"):
            tokenizer.render_chat(["fox"])  # type: ignore[list-item]


class TestGenerationDefaults:
    def test_no_file_gives_no_defaults(self, tmp_path: Path) -> None:
        defaults = read_generation_defaults(tmp_path)
        assert defaults.eos_token_ids == frozenset()
        assert defaults.sampling == {}

    @pytest.mark.parametrize(("eos", "expected"), [(2, {2}), ([2, 3], {2, 3}), (None, set())])
    def test_end_of_sequence_ids_are_one_or_many(self, tmp_path: Path, eos: Any, expected: set[int]) -> None:
        write(tmp_path, "generation_config.json", eos_token_id=eos)
        assert read_generation_defaults(tmp_path).eos_token_ids == expected

    def test_sampling_fields_get_our_names(self, tmp_path: Path) -> None:
        write(tmp_path, "generation_config.json", temperature=0.6, top_k=20, max_new_tokens=99, do_sample=True)
        params = read_generation_defaults(tmp_path).sampling_params()
        assert (params.temperature, params.top_k, params.max_tokens) == (0.6, 20, 99)

    def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "generation_config.json").write_text("{")
        with pytest.raises(ModelError, match="generation_config.json cannot be used"):
            read_generation_defaults(tmp_path)
