"""What crosses between the engine and an executor, and nothing else does.

A `StepPlan` is host integers (numpy) and plain data; an executor never sees a `Request`, a scheduler never sees a
tensor. A *row* is a request's seat in the device batch: it is given once (`NewRow`), keeps its block table, tokens
and sampling state on the device, and later plans carry only what changed. An executor applies a plan in this order:
`freed_rows`, `new_rows`, `new_blocks`, `block_copies`, then computes `rows`.

Tokens that were sampled but not yet seen by the host stay on the device: the executor appends each sampled token to
its row, so the next plan can compute that position before the host has collected it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quire.sampling import SamplingParams

Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

NO_IDS: Int32s = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class NewRow:
    """A request takes a seat: everything that its row needs from the host.

    `token_ids` [num_tokens] are all tokens known so far (the prompt, and after a preemption the output too);
    `block_ids` [num_blocks] its block table so far. `seed` is the request's 64-bit counter-RNG key.
    """

    row: int
    token_ids: Int32s
    prompt_len: int
    block_ids: Int32s
    sampling: SamplingParams
    seed: int
    lora_id: int = 0
    eos_token_ids: tuple[int, ...] = ()  # masked until min_tokens
    bad_word_ids: tuple[tuple[int, ...], ...] = ()  # params.bad_words as token ids
    pooling: str = ""  # "last" or "mean": the row wants its hidden state, not tokens


class NewBlocks(NamedTuple):
    """Blocks appended to rows that already sit: `block_ids[i]` becomes entry `indices[i]` of row `rows[i]`."""

    rows: Int32s
    indices: Int32s
    block_ids: Int32s


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step's work.

    `rows`, `starts`, `counts`, `samples` are parallel, one entry for each scheduled row: compute positions
    `starts[i] .. starts[i] + counts[i] - 1` of row `rows[i]`, and if `samples[i]`, sample the token after the last
    of them and append it to the row. `drafts[i]`, where present, are token ids to verify: they stand at the last
    `len(drafts[i])` of those positions and are written to the row before computing.
    """

    step: int
    rows: Int32s
    starts: Int32s
    counts: Int32s
    samples: Bools
    new_rows: tuple[NewRow, ...] = ()
    freed_rows: tuple[int, ...] = ()
    new_blocks: NewBlocks = NewBlocks(NO_IDS, NO_IDS, NO_IDS)
    block_copies: Int32s = field(default_factory=lambda: np.empty((0, 2), np.int32))  # [num_copies, (source, target)]
    drafts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return int(self.counts.sum())


class TokenLogprobs(NamedTuple):
    """The chosen token and the best `k` of one position, best first; natural logarithms.

    `token_ids` [1 + k] and `logprobs` [1 + k] start with the chosen token; `rank` is its rank from 1.
    """

    token_ids: Int32s
    logprobs: Float32s
    rank: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step found. `token_ids[i]` are the tokens appended to `plan.rows[i]`: none where it did not sample,
    one where it did, one more for each accepted draft. The dictionaries are keyed by index into `plan.rows`.

    `logprobs` has one entry for each appended token. `prompt_logprobs` has one for each computed position p whose next
    token p + 1 is part of the prompt: the log-probability of that next token."""

    step: int
    token_ids: tuple[tuple[int, ...], ...]
    logprobs: dict[int, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    prompt_logprobs: dict[int, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    embeddings: dict[int, Float32s] = field(default_factory=dict)  # pooled [hidden_size], when the prompt is done
    errors: dict[int, str] = field(default_factory=dict)
    """Rows whose numbers went wrong (NaN logits): index into `plan.rows` → cause. The engine fails those requests."""
