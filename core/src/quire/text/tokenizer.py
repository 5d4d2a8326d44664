"""Tokenizer: text to token ids and back, on the `tokenizers` library.

A model folder's `tokenizer.json` is read as it is, which takes no import of transformers. Only where that file is
missing, or `tokenizer_config.json` asks for something else than it does, transformers' AutoTokenizer builds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from quire.errors import ModelError, RequestError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
LONG_TEXT = 10_000  # characters; about 2 ms to encode


class Encoded(NamedTuple):
    """Token ids, and for each the characters `(start, end)` of the text that it stands for."""

    token_ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Text to token ids and back. Safe to use from several threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        named_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap a tokenizer. `named_tokens` are its "bos_token", "eos_token", …; `chat_templates` are by name, "default"
        first of all."""
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.named_tokens = dict(named_tokens or {})
        self.chat_templates = dict(chat_templates or {})
        self.special_tokens = {
            token_id: token.content for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        }
        self._token_texts: dict[int, str] = {}

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def eos_token_id(self) -> int | None:
        eos = self.named_tokens.get("eos_token")
        return None if eos is None else self.backend.token_to_id(eos)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text. Raise RequestError on half a surrogate pair, which is no character."""
        if len(text) < LONG_TEXT:
            return list(self._encode(text, add_special_tokens).ids)
        # The same without offsets, in half the time; and, unlike `encode`, it lets other threads run meanwhile.
        with _naming_surrogates():
            return list(self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def encode_with_offsets(self, text: str, *, add_special_tokens: bool = True) -> Encoded:
        """Return the token ids of a text and where in it they stand. Raise as `encode`."""
        with _naming_surrogates():  # unlike `encode`, it lets other threads run meanwhile
            encoding = self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        return Encoded(list(encoding.ids), list(encoding.offsets))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids; ids past the vocabulary have none."""
        if len(token_ids) < LONG_TEXT:
            return str(self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens))
        # The same, but it lets other threads run meanwhile.
        return str(self.backend.decode_batch([list(token_ids)], skip_special_tokens=skip_special_tokens)[0])

    def token_text(self, token_id: int) -> str:
        """Return the text of one token alone, special ones included: for logprobs."""
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self.decode([token_id], skip_special_tokens=False)
        return text

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation as the model's chat template writes it, special tokens included.

        `chat_template` is a template or the name of one of the model's. `variables`, and those in
        `chat_template_kwargs`, are the template's own. Raise RequestError where there is no template, or it refuses the
        messages.
        """
        from quire.text.chat_template import render  # transformers' utilities take about a second to import

        template = self._choose_template(chat_template, with_tools=bool(tools))
        return render(
            template,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
            continue_final_message=continue_final_message,
            variables={**self.named_tokens, **(chat_template_kwargs or {}), **variables},
        )

    def _encode(self, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        with _naming_surrogates():
            return self.backend.encode(text, add_special_tokens=add_special_tokens)

    def _choose_template(self, asked: str | None, *, with_tools: bool) -> str:
        if asked is not None:
            return self.chat_templates.get(asked, asked)
        name = "tool_use" if with_tools and "tool_use" in self.chat_templates else "default"
        if name not in self.chat_templates:
            raise RequestError(
                "the model has no chat template"
                + (f" named 'default', only {sorted(self.chat_templates)}" if self.chat_templates else "")
                + "; pass one as chat_template=, or write the prompt yourself and use generate()",
                param="messages",
            )
        return self.chat_templates[name]


@contextmanager
def _naming_surrogates() -> Iterator[None]:
    """Raise RequestError where the library cannot take a text."""
    try:
        yield
    except TypeError as error:
        raise RequestError("the text holds half a surrogate pair; give text that UTF-8 can write") from error


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Tokenizer:
    """Read the tokenizer of a model folder. Raise ModelError where there is none, or it cannot be read."""
    if not has_tokenizer(path):
        raise ModelError(
            f"{path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}; pass tokenizer=FOLDER_OR_NAME, "
            "or give prompts as token ids"
        )
    settings = _read_json(path / "tokenizer_config.json")
    templates = dict(_read_chat_templates(path, settings))
    try:
        backend = _read_plain(path, settings)
        if backend is not None:
            return Tokenizer(backend, named_tokens=_read_named_tokens(path, settings), chat_templates=templates)
        return _build_with_transformers(path, templates, trust_remote_code)
    except Exception as error:  # the libraries raise bare Exception, ValueError, OSError, ImportError
        raise ModelError(f"the tokenizer in {path} cannot be read: {error}") from error


def has_tokenizer(path: Path) -> bool:
    """Say whether a folder holds any tokenizer."""
    return any((path / name).is_file() for name in TOKENIZER_FILES)


def _read_plain(path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer | None:
    """Return tokenizer.json's tokenizer, unless tokenizer_config.json asks for another than that file holds."""
    file = path / "tokenizer.json"
    if not file.is_file():
        return None
    backend = tokenizers.Tokenizer.from_file(str(file))
    return backend if _agrees(backend, settings) else None


def _agrees(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> bool:
    tokens = [item for _, item in _named_tokens(settings)]
    tokens += [_content(item) for item in settings.get("added_tokens_decoder", {}).values()]
    if any(backend.token_to_id(token) is None for token in tokens):
        return False
    encoded = backend.encode("a").tokens
    for setting, name, place in (("add_bos_token", "bos_token", 0), ("add_eos_token", "eos_token", -1)):
        named = _content(settings.get(name) or "")
        if setting in settings and bool(settings[setting]) != (encoded[place] == named):
            return False
    return True


def _build_with_transformers(path: Path, templates: dict[str, str], trust_remote_code: bool) -> Tokenizer:
    from transformers import AutoTokenizer

    built = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    backend = getattr(built, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ModelError(
            f"{type(built).__name__} does not stand on the tokenizers library, which streaming needs; "
            "convert it to a tokenizer.json"
        )
    named = {name: str(token) for name, token in built.special_tokens_map.items() if isinstance(token, str)}
    return Tokenizer(backend, named_tokens=named, chat_templates=templates)


def _read_named_tokens(path: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    older = _read_json(path / "special_tokens_map.json")
    return dict(_named_tokens(older)) | dict(_named_tokens(settings))


def _named_tokens(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, token in settings.items():
        if name.endswith("_token") and isinstance(token, str | dict) and token:
            yield name, _content(token)


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _read_chat_templates(path: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield templates by name; a later one of the same name wins: the files stand over tokenizer_config.json."""
    template = settings.get("chat_template")
    if isinstance(template, str):
        yield "default", template
    elif template:
        yield from ((item["name"], item["template"]) for item in template)
    if older := _read_json(path / "chat_template.json").get("chat_template"):
        yield "default", older
    if (path / "chat_template.jinja").is_file():
        yield "default", (path / "chat_template.jinja").read_text("utf-8")
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        yield file.stem, file.read_text("utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not an object")
    return value
