"""Log-likelihood of a continuation, read off prompt logprobs: works with any decoder.

The prompt and the continuation are computed as one prompt, and one token more is sampled and thrown away.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from quire.errors import RequestError
from quire.intake import Intake, Prompt, PromptLike
from quire.outputs import RequestOutput, ScoreOutput
from quire.sampling import SamplingParams
from quire.text.tokenizer import Tokenizer


class PromptReader(Protocol):
    """What reads prompts: an engine, or whoever stands before one in another process."""

    intake: Intake
    tokenizer: Tokenizer | None


class ScorePrompt(NamedTuple):
    """Prompt and continuation joined; the continuation's tokens are those from `start` on."""

    whole: Prompt
    start: int


def score_params() -> SamplingParams:
    """Return parameters that ask for the logprob of each prompt token, and as little else as can be."""
    return SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)


def make_score_prompt(prompt: PromptLike, continuation: PromptLike, reader: PromptReader) -> ScorePrompt:
    """Join the two. Texts are joined as text, and a token that stands across the border counts as continuation.

    Raise RequestError where either has no token.
    """
    if isinstance(prompt, str) and isinstance(continuation, str):
        pair = _join_texts(prompt, continuation, reader)
    else:
        head, tail = reader.intake.read_prompt(prompt), _read_tail(continuation, reader)
        pair = ScorePrompt(Prompt(None, head.token_ids + tail, head.cache_salt), len(head.token_ids))
    if pair.start == 0 or pair.start >= len(pair.whole.token_ids):
        empty = "prompt" if pair.start == 0 else "continuation"
        raise RequestError(f"the {empty} has no token; a score needs at least one of each", param=empty)
    return pair


def read_score(pair: ScorePrompt, output: RequestOutput) -> ScoreOutput:
    """Sum up the logprobs of the continuation's tokens. Raise RequestError if the request failed."""
    completion = output.outputs[0]
    if completion.finish_reason == "error" or output.prompt_logprobs is None:
        raise RequestError(f"request {output.request_id} cannot be scored: {completion.stop_reason or 'no logprobs'}")
    token_ids = pair.whole.token_ids[pair.start :]
    positions = output.prompt_logprobs[pair.start :]
    chosen = [position[token_id] for token_id, position in zip(token_ids, positions, strict=True) if position]
    return ScoreOutput(
        request_id=output.request_id,
        prompt_token_ids=pair.whole.token_ids[: pair.start],
        token_ids=token_ids,
        logprobs=[item.logprob for item in chosen],
        score=sum(item.logprob for item in chosen),
        greedy=all(item.rank == 1 for item in chosen),
    )


def _join_texts(prompt: str, continuation: str, reader: PromptReader) -> ScorePrompt:
    reader.intake.read_prompt(prompt)  # refuses text where there is no tokenizer
    assert reader.tokenizer is not None, "a text prompt was read without a tokenizer"
    encoded = reader.tokenizer.encode_with_offsets(prompt + continuation)
    before = [end <= len(prompt) for _, end in encoded.offsets]
    start = before.index(False) if False in before else len(before)
    return ScorePrompt(Prompt(prompt + continuation, encoded.token_ids), start)


def _read_tail(continuation: PromptLike, reader: PromptReader) -> list[int]:
    if isinstance(continuation, str) and reader.tokenizer is not None:
        return reader.tokenizer.encode(continuation, add_special_tokens=False)
    return reader.intake.read_prompt(continuation).token_ids
