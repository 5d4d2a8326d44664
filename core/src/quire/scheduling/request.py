"""A request on its way through the engine: what it asked for, and the little state that is not derived.

While a request holds a row of the device batch its counters live in the scheduler's `RowTable`, so that a step can
work on all of them at once; the properties here read them there. A request without a row has computed nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from quire.plan import Int32s
    from quire.scheduling.rows import RowTable

NO_ROW = -1


class RequestStatus(Enum):
    WAITING = "waiting"  # new, or preempted: owns no row and no block
    RUNNING = "running"  # holds a row
    FINISHED = "finished"


class Request:
    """One sequence to complete. The scheduler alone changes it; others read.

    `token_ids` are the prompt and all output known to the host. `seed` keys the counter-based random numbers, so the
    same seed and tokens give the same output whatever else runs. Requests of one `group` have the same prompt, and
    compute it once. With `pooling` ("last" or "mean") it wants the prompt's pooled hidden state and no token.
    """

    __slots__ = (
        "arrival",
        "bad_word_ids",
        "block_hashes",
        "block_ids",
        "cache_salt",
        "eos_token_ids",
        "finish_reason",
        "group",
        "leader",
        "lora_id",
        "max_length",
        "num_cached_tokens",
        "num_indexed_blocks",
        "num_preemptions",
        "num_reported_logprobs",
        "num_unseen",
        "params",
        "pooling",
        "priority",
        "prompt_len",
        "request_id",
        "row",
        "rows",
        "seed",
        "status",
        "stop_ids",
        "token_ids",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        arrival: float,
        seed: int,
        eos_token_ids: frozenset[int],
        priority: int = 0,
        lora_id: int = 0,
        cache_salt: str = "",
        group: str | None = None,
        bad_word_ids: tuple[tuple[int, ...], ...] = (),
        pooling: str = "",
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.prompt_len = len(prompt_token_ids)
        self.arrival = arrival
        self.seed = seed
        self.eos_token_ids = eos_token_ids
        self.priority = priority
        self.lora_id = lora_id
        self.cache_salt = cache_salt
        self.group = group
        self.bad_word_ids = bad_word_ids
        self.pooling = pooling
        self.stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_token_ids)
        self.max_length = 0  # prompt and output; set when the scheduler accepts it

        self.token_ids: array[int] = array("i", prompt_token_ids)
        self.status = RequestStatus.WAITING
        self.finish_reason: str | None = None
        self.leader: Request | None = None  # the first of its group, whose prompt blocks it may share

        self.rows: RowTable | None = None
        self.row = NO_ROW
        self.block_ids: list[int] = []
        self.block_hashes: list[bytes] = []  # chain over its full blocks, as far as somebody asked
        self.num_indexed_blocks = 0
        self.num_unseen = 0  # sampled before a preemption and not yet committed
        self.num_cached_tokens = -1  # prompt tokens that the prefix cache saved; -1: not admitted yet
        self.num_preemptions = 0
        self.num_reported_logprobs = 0  # prompt positions whose logprobs have been handed out

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_len

    @property
    def prompt_token_ids(self) -> list[int]:
        return self.token_ids[: self.prompt_len].tolist()

    @property
    def num_computed_tokens(self) -> int:
        """Positions whose keys and values are written, or will be by a step already planned."""
        return int(self.rows.computed[self.row]) if self.rows is not None else 0

    @property
    def num_pending(self) -> int:
        """Tokens sampled by steps under way, which the host has not seen."""
        return int(self.rows.length[self.row]) - len(self.token_ids) if self.rows is not None else self.num_unseen

    @property
    def is_finished(self) -> bool:
        return self.status is RequestStatus.FINISHED

    @property
    def needs_all_positions(self) -> bool:
        """Whether prompt positions have to be computed for their own sake, so that no cache may skip them."""
        if self.pooling == "mean":
            return True
        return self.params.prompt_logprobs is not None and self.num_reported_logprobs < self.prompt_len - 1

    def begins_like(self, other: Request) -> bool:
        """Whether both prompts, and so their keys and values, are the same."""
        same_terms = (self.prompt_len, self.lora_id, self.cache_salt) == (
            other.prompt_len,
            other.lora_id,
            other.cache_salt,
        )
        return same_terms and self.token_ids[: self.prompt_len] == other.token_ids[: self.prompt_len]

    def token_array(self) -> Int32s:
        """Return all tokens known to the host as a new array `[num_tokens]` int32."""
        return np.array(self.token_ids, dtype=np.int32)

    def stops_at(self, token_id: int) -> bool:
        """Whether this token, just appended, ends the output."""
        return token_id in self.stop_ids and self.num_output_tokens >= self.params.min_tokens

    def __repr__(self) -> str:
        return f"Request({self.request_id!r}, {self.status.value}, {self.prompt_len} + {self.num_output_tokens} tokens)"
