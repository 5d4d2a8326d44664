"""What a request may ask of its logits beyond temperature and truncation, applied row by row on the device.

Order, as vLLM's: allowed tokens, bad words, minimum length, logit bias, penalties. Rows that ask for none of it never
come here. Nothing is read back to the host: the tokens that penalties and bad words look at may still be in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from quire.execution.rows import Rows, has_penalties
from quire.plan import NewRow

NEVER = float("-inf")


class SampledRow(NamedTuple):
    """One sampled row of a step: its seat, and the position that its next token takes."""

    seat: NewRow
    position: int

    @property
    def num_outputs(self) -> int:
        return self.position - self.seat.prompt_len


class LogitsEditor:
    """Changes logits `[S, V]` in place, as each row asks. Mutates what it is given."""

    def __init__(self, rows: Rows, apply_penalties: Callable[..., torch.Tensor]) -> None:
        self._rows = rows
        self._apply_penalties = apply_penalties

    def edit(self, logits: torch.Tensor, sampled: Sequence[SampledRow]) -> torch.Tensor:
        """Apply everything that the sampled rows ask for."""
        for index, row in enumerate(sampled):
            self._edit_row(logits[index], row)
        penalised = [index for index, row in enumerate(sampled) if has_penalties(row.seat.sampling)]
        if penalised:
            self._penalise(logits, penalised, sampled)
        return logits

    def _edit_row(self, logits: torch.Tensor, row: SampledRow) -> None:
        params = row.seat.sampling
        if params.allowed_token_ids is not None:
            _keep_only(logits, params.allowed_token_ids)
        for word in row.seat.bad_word_ids:
            self._forbid_word(logits, row, word)
        if row.num_outputs < params.min_tokens:
            _forbid(logits, (*row.seat.eos_token_ids, *params.stop_token_ids))
        if params.logit_bias:
            _add_bias(logits, params.logit_bias)

    def _forbid_word(self, logits: torch.Tensor, row: SampledRow, word: tuple[int, ...]) -> None:
        *prefix, last = word
        if len(prefix) > row.num_outputs:
            return
        written = self._rows.tokens[row.seat.row, row.position - len(prefix) : row.position]
        matches = (written == _index(prefix, logits.device)).all()
        logits[last] = torch.where(matches, NEVER, logits[last])

    def _penalise(self, logits: torch.Tensor, indices: list[int], sampled: Sequence[SampledRow]) -> None:
        rows = [sampled[index] for index in indices]
        where = _index(indices, logits.device)
        prompt_counts, output_counts = self._count_tokens(rows, logits.shape[1])
        params = [row.seat.sampling for row in rows]
        logits[where] = self._apply_penalties(
            logits[where],
            prompt_counts > 0,
            output_counts,
            logits.new_tensor([item.presence_penalty for item in params]),
            logits.new_tensor([item.frequency_penalty for item in params]),
            logits.new_tensor([item.repetition_penalty for item in params]),
        )

    def _count_tokens(self, rows: Sequence[SampledRow], vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._rows.tokens.device
        longest = max(row.position for row in rows)
        tokens = self._rows.tokens[_index([row.seat.row for row in rows], device), :longest].long()
        at = torch.arange(longest, device=device)
        prompt_ends = _index([row.seat.prompt_len for row in rows], device)[:, None]
        ends = _index([row.position for row in rows], device)[:, None]
        # Positions past a row's end may hold a former tenant's tokens: they add 0, at token 0.
        tokens = torch.where(at < ends, tokens, 0)
        zeros = torch.zeros(len(rows), vocab_size, dtype=torch.int32, device=device)
        in_prompt = (at < prompt_ends).int()
        in_output = ((at >= prompt_ends) & (at < ends)).int()
        return zeros.scatter_add(1, tokens, in_prompt), zeros.scatter_add(1, tokens, in_output)


def _index(values: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _keep_only(logits: torch.Tensor, token_ids: Sequence[int]) -> None:
    index = _index(token_ids, logits.device)
    kept = logits[index]
    logits.fill_(NEVER)
    logits[index] = kept


def _forbid(logits: torch.Tensor, token_ids: Sequence[int]) -> None:
    if token_ids:
        logits[_index(token_ids, logits.device)] = NEVER


def _add_bias(logits: torch.Tensor, bias: dict[int, float]) -> None:
    logits[_index(list(bias), logits.device)] += logits.new_tensor(list(bias.values()))
