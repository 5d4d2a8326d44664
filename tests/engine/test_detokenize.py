"""The text that comes out piece by piece is the text of the whole, and stop strings end it where they should."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.sampling import OutputKind, SamplingParams
from quire.text.detokenize import (
    MAX_PENDING,
    Detokenizer,
    LateText,
    TokenDecoder,
    count_held_back,
    find_stop,
    open_text,
)
from quire.text.tokenizer import Tokenizer

fixed = settings(deadline=None, derandomize=True, max_examples=150)
token_ids = st.lists(st.integers(0, 399), max_size=60)
texts = st.text(alphabet="abc stopEND.é你😀👩‍👩‍👧\n", max_size=40)


def decode_by_steps(decoder: TokenDecoder, ids: Sequence[int]) -> str:
    return "".join(decoder.step(token_id) for token_id in ids) + decoder.flush()


def deltas_of(detokenizer: Detokenizer, chunks: Sequence[Sequence[int]]) -> list[str]:
    deltas = []
    for chunk in chunks:
        stopped = any(detokenizer.append(token_id) for token_id in chunk)
        deltas.append(detokenizer.take_delta())
        if stopped:
            return deltas
    detokenizer.finish()
    return [*deltas, detokenizer.take_delta()]


def in_chunks(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[at : at + size] for at in range(0, len(ids), size)]


class TestTokenDecoder:
    @fixed
    @given(ids=token_ids, skip=st.booleans())
    def test_random_tokens_give_the_text_of_the_whole(self, tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
        decoder = TokenDecoder(tokenizer, skip_special_tokens=skip)
        assert decode_by_steps(decoder, ids) == tokenizer.decode(ids, skip_special_tokens=skip)

    @fixed
    @given(prompt=texts, ids=token_ids)
    def test_tokens_after_a_prompt_give_what_the_whole_has_more(
        self, tokenizer: Tokenizer, prompt: str, ids: list[int]
    ) -> None:
        context = tokenizer.encode(prompt)
        whole = tokenizer.decode(context + ids)
        assert decode_by_steps(TokenDecoder(tokenizer, context), ids) == whole[len(prompt) :]

    @fixed
    @given(prompt=texts, text=texts)
    def test_byte_fallback_gives_the_text_of_the_whole(
        self, byte_fallback_tokenizer: Tokenizer, prompt: str, text: str
    ) -> None:
        tokenizer = byte_fallback_tokenizer
        context, ids = tokenizer.encode(prompt), tokenizer.encode(text)
        whole = tokenizer.decode(context + ids)
        assert decode_by_steps(TokenDecoder(tokenizer, context), ids) == whole[len(tokenizer.decode(context)) :]

    @fixed
    @given(prompt=texts, data=st.data())
    def test_the_demo_models_random_tokens_give_the_text_of_the_whole(
        self, demo_tokenizer: Tokenizer, prompt: str, data: st.DataObject
    ) -> None:
        tokenizer = demo_tokenizer
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
        context = tokenizer.encode(prompt)
        whole = tokenizer.decode(context + ids)
        assert decode_by_steps(TokenDecoder(tokenizer, context), ids) == whole[len(tokenizer.decode(context)) :]

    def test_the_space_of_a_first_word_is_kept_after_a_prompt(self, byte_fallback_tokenizer: Tokenizer) -> None:
        tokenizer = byte_fallback_tokenizer
        word = tokenizer.encode("a", add_special_tokens=False)
        assert decode_by_steps(TokenDecoder(tokenizer, tokenizer.encode("he")), word) == " a"
        assert decode_by_steps(TokenDecoder(tokenizer), word) == "a"

    def test_invalid_bytes_do_not_take_back_text_that_was_given(self, byte_fallback_tokenizer: Tokenizer) -> None:
        ids = [byte_fallback_tokenizer.backend.token_to_id(token) for token in ("<0x41>", "<0xE2>", "d", "e")]
        assert decode_by_steps(TokenDecoder(byte_fallback_tokenizer), ids) == "A�de"

    def test_an_emoji_of_four_tokens_comes_out_once_and_whole(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("😀")
        assert len(ids) == 4
        decoder = TokenDecoder(tokenizer)
        assert [decoder.step(token_id) for token_id in ids] == ["", "", "", "😀"]
        assert decoder.flush() == ""

    def test_an_unfinished_character_is_replaced_at_the_end(self, tokenizer: Tokenizer) -> None:
        assert decode_by_steps(TokenDecoder(tokenizer), tokenizer.encode("ab😀")[:-1]) == "ab�"

    def test_a_prompt_that_ends_inside_a_character_is_not_given_again(self, tokenizer: Tokenizer) -> None:
        first, *rest = tokenizer.encode("😀")
        assert decode_by_steps(TokenDecoder(tokenizer, [first]), rest) == tokenizer.decode(rest)

    @fixed
    @given(num_garbage=st.integers(MAX_PENDING - 5, 3 * MAX_PENDING), text=texts)
    def test_long_garbage_before_text_gives_the_text_of_the_whole(
        self, tokenizer: Tokenizer, num_garbage: int, text: str
    ) -> None:
        ids = tokenizer.encode("é")[-1:] + _continuation_byte(tokenizer) * num_garbage + tokenizer.encode(text)
        assert decode_by_steps(TokenDecoder(tokenizer), ids) == tokenizer.decode(ids)

    def test_endless_garbage_bytes_take_linear_time(self, tokenizer: Tokenizer) -> None:
        decoder, ids = TokenDecoder(tokenizer), _continuation_byte(tokenizer) * 20_000
        started = time.perf_counter()
        assert decode_by_steps(decoder, ids) == "�" * len(ids)
        assert time.perf_counter() - started < 10  # quadratic: a minute and more

    def test_endless_skipped_tokens_give_no_text(self, tokenizer: Tokenizer) -> None:
        ids = [0] * 500 + tokenizer.encode(" fox")
        assert decode_by_steps(TokenDecoder(tokenizer, tokenizer.encode("the")), ids) == " fox"

    def test_the_space_of_a_word_is_kept_after_many_skipped_tokens(self, byte_fallback_tokenizer: Tokenizer) -> None:
        tokenizer = byte_fallback_tokenizer
        ids = [tokenizer.backend.token_to_id("</s>")] * 500 + tokenizer.encode("a")
        assert decode_by_steps(TokenDecoder(tokenizer, tokenizer.encode("he")), ids) == " a"

    def test_special_tokens_are_kept_or_skipped(self, tokenizer: Tokenizer) -> None:
        ids = [0, *tokenizer.encode("fox"), 1]
        assert decode_by_steps(TokenDecoder(tokenizer), ids) == "fox"
        assert decode_by_steps(TokenDecoder(tokenizer, skip_special_tokens=False), ids) == "<|bos|>fox<|eos|>"

    @pytest.mark.parametrize(("spaces", "text"), [(True, "a </s> </s> b"), (False, "a </s></s> b")])
    def test_spaces_between_special_tokens_are_kept_or_dropped(
        self, word_tokenizer: Tokenizer, spaces: bool, text: str
    ) -> None:
        ids = [word_tokenizer.backend.token_to_id(token) for token in ("a", "</s>", "</s>", "b")]
        decoder = TokenDecoder(word_tokenizer, skip_special_tokens=False, spaces_between_special_tokens=spaces)
        assert decode_by_steps(decoder, ids) == text

    def test_ids_past_the_vocabulary_have_no_text(self, tokenizer: Tokenizer) -> None:
        ids = [*tokenizer.encode("fox"), 100_000, *tokenizer.encode(" dog")]
        assert decode_by_steps(TokenDecoder(tokenizer), ids) == "fox dog"


class TestLateText:
    @fixed
    @given(prompt=texts, ids=token_ids, size=st.sampled_from([1, 3, 60]))
    def test_text_made_at_the_end_is_the_text_of_the_deltas(
        self, tokenizer: Tokenizer, prompt: str, ids: list[int], size: int
    ) -> None:
        context = tokenizer.encode(prompt)
        late = open_text(tokenizer, SamplingParams(output_kind=OutputKind.FINAL_ONLY), context)
        assert isinstance(late, LateText)
        for chunk in in_chunks(ids, size):
            assert late.extend(chunk, len(chunk)) == len(chunk)
        late.finish()
        deltas = deltas_of(Detokenizer(tokenizer, SamplingParams(), context), in_chunks(ids, size))
        assert late.given_text == "".join(deltas)

    def test_the_token_that_stops_has_no_text(self, tokenizer: Tokenizer) -> None:
        for params in (SamplingParams(output_kind=OutputKind.FINAL_ONLY), SamplingParams()):
            text = open_text(tokenizer, params, [])
            ids = tokenizer.encode("fox!")
            assert text.extend(ids, len(ids) - 1) == len(ids)
            text.finish()
            text.take_delta()
            assert text.given_text == "fox"

    def test_stop_strings_are_looked_for_even_if_only_the_end_is_read(self, tokenizer: Tokenizer) -> None:
        params = SamplingParams(output_kind=OutputKind.FINAL_ONLY, stop=("o",))
        assert isinstance(open_text(tokenizer, params, []), Detokenizer)


class TestStopStrings:
    @fixed
    @given(ids=token_ids, size=st.sampled_from([1, 2, 3, 7, 60]))
    def test_deltas_of_every_chunking_join_to_the_whole(self, tokenizer: Tokenizer, ids: list[int], size: int) -> None:
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=("never in the text",)))
        assert "".join(deltas_of(detokenizer, in_chunks(ids, size))) == tokenizer.decode(ids) == detokenizer.text

    @fixed
    @given(text=texts, stops=st.lists(st.sampled_from(["stop", "END", "é你", "\n", "top"]), min_size=1, max_size=3))
    def test_text_ends_before_the_stop_string_that_is_complete_first(
        self, tokenizer: Tokenizer, text: str, stops: list[str]
    ) -> None:
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=tuple(stops)))
        deltas = deltas_of(detokenizer, in_chunks(tokenizer.encode(text), 1))
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        expected = text if not ends else min((text[: min(ends)].removesuffix(stop) for stop in stops), key=len)
        assert "".join(deltas) == detokenizer.text == expected

    def test_a_stop_string_across_token_borders_is_found(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("fox </tool> dog")
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=("</tool>",)))
        assert "".join(deltas_of(detokenizer, in_chunks(ids, 1))) == "fox "
        assert detokenizer.stop == "</tool>"
        assert detokenizer.num_tokens < len(ids)

    def test_the_stop_string_is_kept_when_asked_for(self, tokenizer: Tokenizer) -> None:
        params = SamplingParams(stop=("</tool>",), include_stop_str_in_output=True)
        detokenizer = Detokenizer(tokenizer, params)
        assert "".join(deltas_of(detokenizer, in_chunks(tokenizer.encode("fox </tool> dog"), 1))) == "fox </tool>"

    def test_text_that_may_begin_a_stop_string_is_held_back(self, tokenizer: Tokenizer) -> None:
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=("xyz",)))
        for token_id in tokenizer.encode("fox"):
            detokenizer.append(token_id)
        assert detokenizer.take_delta() == "fo"
        for token_id in tokenizer.encode("y!"):
            detokenizer.append(token_id)
        assert detokenizer.take_delta() == "xy!"

    def test_held_back_text_comes_out_at_the_end(self, tokenizer: Tokenizer) -> None:
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=("xyz",)))
        assert deltas_of(detokenizer, [tokenizer.encode("fox")]) == ["fo", "x"]

    def test_stop_strings_do_not_count_before_min_tokens(self, tokenizer: Tokenizer) -> None:
        once = tokenizer.encode("END")
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=("END",), min_tokens=len(once), max_tokens=99))
        assert "".join(deltas_of(detokenizer, in_chunks(once + tokenizer.encode("!") + once, 1))) == "END!"

    def test_a_stop_string_completed_by_the_last_flush_counts(self, tokenizer: Tokenizer) -> None:
        detokenizer = Detokenizer(tokenizer, SamplingParams(stop=("�",)))
        assert deltas_of(detokenizer, [tokenizer.encode("fox😀")[:-1]]) == ["fox", ""]
        assert detokenizer.stop == "�"

    def test_of_stop_strings_that_end_together_the_longest_counts(self) -> None:
        match = find_stop("a stop", 5, ("top", "stop"))
        assert match is not None
        assert match.stop == "stop"

    @pytest.mark.parametrize(("text", "num_held"), [("", 0), ("a", 0), ("as", 1), ("sto", 3), ("stop", 0), ("EsEN", 2)])
    def test_the_longest_possible_beginning_is_held_back(self, text: str, num_held: int) -> None:
        assert count_held_back(text, ("stop", "END")) == num_held


def _continuation_byte(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode("é")[-1:] if len(tokenizer.encode("é")) > 1 else tokenizer.encode("😀")[-1:]
