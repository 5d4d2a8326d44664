"""From what a caller gives to what can be served: every check of a request, made once, before it is queued.

Nothing here touches the engine's state, so prompts may be read and checked on any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from quire.errors import RequestError
from quire.sampling import OutputKind, SamplingParams, check_limits
from quire.text.tokenizer import Tokenizer

PromptLike = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``; the last two may hold a "cache_salt"."""

Pooling = Literal["", "last", "mean"]
"""How an embedding is made of hidden states; "" for requests that want tokens."""

PROMPT_KEYS = frozenset({"prompt", "prompt_token_ids", "cache_salt"})


EMBEDDING_PARAMS = SamplingParams(max_tokens=1, temperature=0, detokenize=False, output_kind=OutputKind.FINAL_ONLY)


class Prompt(NamedTuple):
    """A prompt as token ids, and its text where that was given. Only requests of one `cache_salt` share KV blocks."""

    text: str | None
    token_ids: list[int]
    cache_salt: str = ""


class Admitted(NamedTuple):
    """A request that passed every check; its `max_tokens` is a number. `words` are the prompt's token ids as machine
    words, for a long list is slow to read again; `arrival` is by the engine's clock."""

    request_id: str
    prompt: Prompt
    words: array[int]
    params: SamplingParams
    bad_word_ids: tuple[tuple[int, ...], ...]
    arrival: float
    pooling: Pooling = ""


class Intake:
    """Reads prompts and checks requests against what the model and the backend can do."""

    def __init__(
        self,
        *,
        max_model_len: int,
        max_logprobs: int,
        vocab_size: int,
        tokenizer: Tokenizer | None,
        validate: Callable[[SamplingParams], Sequence[str]],
    ) -> None:
        """`validate` returns the backend's reasons to refuse a request."""
        self._max_model_len = max_model_len
        self._max_logprobs = max_logprobs
        self._vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._validate = validate

    def admit(self, request_id: str, prompt: PromptLike | Prompt, params: SamplingParams, arrival: float) -> Admitted:
        """Check everything. Raise RequestError, whose `param` names the field, with what to do."""
        prompt = self.read_prompt(prompt)
        words = self._check_token_ids(prompt.token_ids)
        check_limits(params, vocab_size=self._vocab_size, max_logprobs=self._max_logprobs)
        params = self._limit_length(len(prompt.token_ids), params)
        self._check_features(params)
        return Admitted(request_id, prompt, words, params, self._prepare_bad_words(params), arrival)

    def admit_embedding(
        self, request_id: str, prompt: PromptLike | Prompt, pooling: Pooling, arrival: float
    ) -> Admitted:
        """Check a request for an embedding. Raise RequestError."""
        if not pooling or pooling not in get_args(Pooling):
            raise RequestError(f"pooling is {pooling!r}; it must be 'last' or 'mean'", param="pooling")
        return self.admit(request_id, prompt, EMBEDDING_PARAMS, arrival)._replace(pooling=pooling)

    def read_prompt(self, prompt: PromptLike | Prompt) -> Prompt:
        """Return a prompt as token ids. Raise RequestError on what is none."""
        if isinstance(prompt, Prompt):
            return prompt
        if isinstance(prompt, str):
            return Prompt(prompt, self._require_tokenizer("a text prompt", "prompt").encode(prompt))
        if isinstance(prompt, Mapping):
            return self._read_mapping(prompt)
        return Prompt(None, _as_token_ids(prompt))

    def read_chat(self, messages: Sequence[Mapping[str, Any]], **template_options: Any) -> Prompt:
        """Return a conversation as a prompt, with the options of `Tokenizer.render_chat`. Raise RequestError."""
        tokenizer = self._require_tokenizer("a conversation", "messages")
        text = tokenizer.render_chat(messages, **template_options)
        return Prompt(text, tokenizer.encode(text, add_special_tokens=False))

    def _read_mapping(self, prompt: Mapping[str, Any]) -> Prompt:
        unknown = sorted(prompt.keys() - PROMPT_KEYS)
        if unknown or not prompt.keys() & {"prompt", "prompt_token_ids"}:
            raise _refusal(f"a prompt with the keys {sorted(prompt)}", f"keys are {sorted(PROMPT_KEYS)}")
        salt = str(prompt.get("cache_salt") or "")
        if "prompt_token_ids" in prompt:
            return Prompt(prompt.get("prompt"), _as_token_ids(prompt["prompt_token_ids"]), salt)
        return self.read_prompt(prompt["prompt"])._replace(cache_salt=salt)

    def _check_token_ids(self, token_ids: list[int]) -> array[int]:
        if not token_ids:
            raise _refusal("the prompt is empty", "give at least one token")
        try:
            words = array("i", token_ids)
        except OverflowError:
            raise self._no_such_token(max(token_ids, key=abs)) from None
        ids = np.frombuffer(words, dtype=np.intc)
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= self._vocab_size:
            raise self._no_such_token(lowest if lowest < 0 else highest)
        return words

    def _no_such_token(self, token_id: int) -> RequestError:
        return _refusal(f"the prompt holds token id {token_id}", f"the model's are 0 … {self._vocab_size - 1}")

    def _limit_length(self, prompt_len: int, params: SamplingParams) -> SamplingParams:
        room = self._max_model_len - prompt_len
        if room < 1:
            limit = self._max_model_len
            supported = f"max_model_len is {limit}, output included; shorten it to {limit - 1} or fewer"
            raise _refusal(f"the prompt has {prompt_len} tokens", supported)
        if params.max_tokens is None:
            if params.min_tokens > room:
                raise _too_long(prompt_len, "min_tokens", params.min_tokens, self._max_model_len)
            return msgspec.structs.replace(params, max_tokens=room)
        if params.max_tokens > room:
            raise _too_long(prompt_len, "max_tokens", params.max_tokens, self._max_model_len)
        return params

    def _check_features(self, params: SamplingParams) -> None:
        if params.stop:
            self._require_tokenizer("stop strings", "stop")
        if params.structured_outputs is not None:
            raise RequestError(
                "structured_outputs is not served by this version; leave it out and check the text yourself",
                param="structured_outputs",
            )
        if reasons := self._validate(params):
            raise RequestError(f"the backend cannot serve this request: {'; '.join(reasons)}")

    def _prepare_bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of each bad word at the beginning of a text and after a space."""
        if not params.bad_words:
            return ()
        tokenizer = self._require_tokenizer("bad words", "bad_words")
        words = [word.lstrip() or word for word in params.bad_words]
        spelled = [text for word in words for text in (word, f" {word}")]
        encoded = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in spelled]
        return tuple(dict.fromkeys(ids for ids in encoded if ids))

    def _require_tokenizer(self, what: str, param: str) -> Tokenizer:
        if self._tokenizer is None:
            raise RequestError(
                f"{what} needs a tokenizer, and the model's folder holds none; start the engine with "
                "tokenizer=FOLDER_OR_NAME, or use token ids only",
                param=param,
            )
        return self._tokenizer


def _as_token_ids(token_ids: Any) -> list[int]:
    try:
        if isinstance(token_ids, bytes):
            raise TypeError("bytes are neither text nor token ids")
        return array("q", token_ids).tolist()
    except (TypeError, OverflowError) as error:
        raise _refusal(
            f"the prompt is a {type(token_ids).__name__} that does not hold token ids ({error})",
            'give a text, a list of token ids, {"prompt": …} or {"prompt_token_ids": …}',
        ) from error


def _refusal(what: str, supported: str) -> RequestError:
    return RequestError(f"{what}; {supported}", param="prompt")


def _too_long(prompt_len: int, name: str, count: int, max_model_len: int) -> RequestError:
    return RequestError(
        f"the prompt has {prompt_len} tokens and {name} is {count}, together {prompt_len + count}; max_model_len is "
        f"{max_model_len}; lower {name} to {max(max_model_len - prompt_len, 0)}"
        + (", or set it to None for all that is left" if name == "max_tokens" else ""),
        param=name,
    )
