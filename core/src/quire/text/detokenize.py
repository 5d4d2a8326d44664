"""Text from tokens, one after another: whole characters only, stop strings found across token borders.

Two layers. `TokenDecoder` turns tokens into text on the `tokenizers` library's DecodeStream, and holds a character back
until all its bytes are there. `Detokenizer` adds stop strings, and holds back text that may be the beginning of one.
The deltas that it gives, joined, are the text of the completion: nothing that was given is ever taken back. Where
nobody reads before the end, `LateText` decodes all tokens at once; where nobody reads at all, there is `NoText`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers.decoders import DecodeStream

from quire.sampling import OutputKind, SamplingParams
from quire.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
MAX_CONTEXT = 16  # prompt tokens that the first output token is decoded after
MAX_PENDING = 32  # tokens held back before garbage bytes are given out; decoding them again each time is quadratic
MAX_CHARACTER_BYTES = 4  # of UTF-8, so at most as many tokens


class TokenDecoder:
    """The text of a sequence of tokens, as far as it is certain.

    Tokens are decoded after the prompt's last ones, since some tokenizers drop the space of a first token. Joined, the
    texts of `step` and `flush` equal ``decode(prompt + output)[len(decode(prompt)):]``, except where a tokenizer's
    decoder changes text that it gave before (byte fallback with invalid bytes): then what was given stays.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._join_specials = not (skip_special_tokens or spaces_between_special_tokens)
        self._after_special = False
        self._window = _find_context(tokenizer, context, skip_special_tokens)  # what gave the text before `_pending`
        self._pending: list[int] = []
        self._stream = self._open_stream(self._window)

    def step(self, token_id: int) -> str:
        """Add a token; return the text that is certain now, often none."""
        self._pending.append(token_id)
        text = self._decode_next(token_id)
        if text is None:
            return "" if len(self._pending) < MAX_PENDING else self._give_out_garbage()
        self._window, self._pending = self._pending, []
        return self._without_space(text) if self._join_specials else text

    def decode_rest(self, token_ids: Sequence[int]) -> str:
        """Return the text of all tokens that will ever come, at once; no `step` may have come before."""
        self._pending += token_ids
        return self.flush()

    def flush(self) -> str:
        """Return the text that was held back, with U+FFFD where bytes are missing."""
        pending, self._pending = self._pending, []
        return self._text_after_window(pending)

    def _open_stream(self, token_ids: list[int]) -> DecodeStream:
        return DecodeStream(ids=token_ids, skip_special_tokens=self._skip)

    def _decode_next(self, token_id: int) -> str | None:
        try:
            return self._stream.step(self._tokenizer.backend, token_id)
        except Exception as error:  # the library has no type for it
            if "Invalid prefix" not in str(error):
                raise
        self._stream = self._open_stream(self._pending)
        return self._decode(self._pending)

    def _give_out_garbage(self) -> str:
        """Give out all pending text but that of a character that may still become whole; start again behind it."""
        cut = self._find_cut()
        text = self._text_after_window(self._pending[:cut])
        rest = self._pending[cut:]
        # A stream cannot be opened after text that ends in U+FFFD: it would give that text again.
        self._window = [] if text else self._window
        self._stream, self._pending = self._open_stream(self._window), []
        return text + "".join(self.step(token_id) for token_id in rest)

    def _find_cut(self) -> int:
        """Return where pending tokens can be parted without parting a character, not in the last few of them."""
        whole = self._decode(self._pending)
        start = len(self._pending) - MAX_CHARACTER_BYTES + 1
        for cut in range(start, start - MAX_CHARACTER_BYTES, -1):
            if self._decode(self._pending[:cut]) + self._decode(self._pending[cut:]) == whole:
                return cut
        return start

    def _text_after_window(self, token_ids: list[int]) -> str:
        before, whole = self._decode(self._window), self._decode(self._window + token_ids)
        return whole[len(before) :] if whole.startswith(before) else self._decode(token_ids)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)

    def _without_space(self, text: str) -> str:
        special = self._tokenizer.special_tokens.get(self._window[0]) if len(self._window) == 1 else None
        follows, self._after_special = self._after_special, special is not None
        return special if special is not None and follows else text


def _find_context(tokenizer: Tokenizer, token_ids: Sequence[int], skip_special_tokens: bool) -> list[int]:
    """Return the prompt's last few tokens, so many that they do not begin or end inside a character; else none."""
    for length in range(min(4, len(token_ids)), min(MAX_CONTEXT, len(token_ids)) + 1):
        context = list(token_ids[len(token_ids) - length :])
        if context and REPLACEMENT not in tokenizer.decode(context, skip_special_tokens=skip_special_tokens):
            return context
    return []


class StopMatch(NamedTuple):
    """A stop string, and where it begins and ends in the text."""

    stop: str
    start: int
    end: int


class Detokenizer:
    """The text of one completion.

    `text` is all of it so far; it ends before a stop string, or after it with `include_stop_str_in_output`. `stop` is
    that string, once found; tokens must not be added after it. `num_tokens` counts the tokens taken.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, prompt_token_ids: Sequence[int] = ()) -> None:
        self.text = ""
        self.stop: str | None = None
        self.num_tokens = 0
        self._params = params
        self._num_given = 0
        self._finished = False
        self._last_chars = frozenset(stop[-1] for stop in params.stop)
        # What text that may be the beginning of a stop string ends with; nothing, where it need not be held back.
        held = () if params.include_stop_str_in_output else params.stop
        self._held_chars = frozenset(char for stop in held for char in stop[:-1])
        self._decoder = TokenDecoder(
            tokenizer,
            prompt_token_ids,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )

    def append(self, token_id: int) -> bool:
        """Add a token; return whether its text completed a stop string."""
        assert self.stop is None, "no token may follow a stop string"
        self.num_tokens += 1
        return self._add(self._decoder.step(token_id))

    def extend(self, token_ids: Sequence[int], num_spoken: int) -> int:
        """Add tokens, of which the first `num_spoken` have text; return how many were taken up to a stop string."""
        for count, token_id in enumerate(token_ids[:num_spoken], 1):
            if self.append(token_id):
                return count
        self.num_tokens += len(token_ids) - num_spoken
        return len(token_ids)

    def finish(self) -> bool:
        """Add what was held back as an unfinished character; return whether it completed a stop string."""
        self._finished = True
        return self.stop is not None or self._add(self._decoder.flush())

    def take_delta(self) -> str:
        """Return the text that is new since the last call, less what may be the beginning of a stop string."""
        end = len(self.text)
        if self.text[-1:] in self._held_chars and not self._finished and self.stop is None:
            end -= count_held_back(self.text, self._params.stop)
        start = self._num_given
        if end <= start:
            return ""
        self._num_given = end
        return self.text[start:end]

    @property
    def given_text(self) -> str:
        """All text that `take_delta` has given."""
        return self.text[: self._num_given]

    def _add(self, text: str) -> bool:
        searched = len(self.text)
        self.text += text
        if self._last_chars.isdisjoint(text) or self.num_tokens <= self._params.min_tokens:
            return False
        match = find_stop(self.text, searched, self._params.stop)
        if match is None:
            return False
        self.stop = match.stop
        self.text = self.text[: match.end if self._params.include_stop_str_in_output else match.start]
        return True


class LateText:
    """The text of a completion that is read only when it is finished, and that no stop string can end."""

    stop: str | None = None

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, prompt_token_ids: Sequence[int] = ()) -> None:
        self.given_text = ""
        self._token_ids: list[int] = []
        self._decoder = TokenDecoder(tokenizer, prompt_token_ids, skip_special_tokens=params.skip_special_tokens)

    def extend(self, token_ids: Sequence[int], num_spoken: int) -> int:
        """Add tokens, of which the first `num_spoken` have text; return how many were taken: all."""
        self._token_ids += token_ids[:num_spoken]
        return len(token_ids)

    def finish(self) -> bool:
        """Decode; return whether that completed a stop string: no."""
        self.given_text = self._decoder.decode_rest(self._token_ids)
        return False

    def take_delta(self) -> str:
        """Return nothing: what there is comes at the end."""
        return ""


class NoText:
    """The text of a completion that nobody reads: none."""

    stop: str | None = None
    given_text = ""

    def extend(self, token_ids: Sequence[int], num_spoken: int) -> int:
        """Return how many tokens were taken: all."""
        return len(token_ids)

    def finish(self) -> bool:
        """Return whether that completed a stop string: no."""
        return False

    def take_delta(self) -> str:
        """Return nothing."""
        return ""


Text = Detokenizer | LateText | NoText


def open_text(tokenizer: Tokenizer | None, params: SamplingParams, prompt_token_ids: Sequence[int]) -> Text:
    """Return what makes a completion's text with the least work that its params allow."""
    if tokenizer is None or not params.detokenize:
        return NoText()
    joins_specials = not (params.skip_special_tokens or params.spaces_between_special_tokens)
    if params.output_kind is OutputKind.FINAL_ONLY and not params.stop and not joins_specials:
        return LateText(tokenizer, params, prompt_token_ids)
    return Detokenizer(tokenizer, params, prompt_token_ids)


def find_stop(text: str, searched: int, stops: Sequence[str]) -> StopMatch | None:
    """Return the stop string that is complete first; of those that end together, the longest.

    Only stop strings that end after character `searched` count.
    """
    best: StopMatch | None = None
    for stop in stops:
        start = text.find(stop, max(0, searched - len(stop) + 1))
        if start < 0:
            continue
        end = start + len(stop)
        if best is None or (end, start) < (best.end, best.start):
            best = StopMatch(stop, start, end)
    return best


def count_held_back(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that a stop string begins with."""
    return max((_count_common(text, stop) for stop in stops), default=0)


def _count_common(text: str, stop: str) -> int:
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
