"""What rows ask for beyond a token, worked out on the host by the core's `SpecialStep`: here is what it runs on.

The model and the draw stay on the device, as programs of fixed shapes: hidden states come to the host, rows of them go
back for their logits, and edited logits go back to be drawn from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from quire.execution.parts import Programs, Rows, StepBuffers, StepFunctions
from quire.plan import StepPlan
from quire_kernels_xla import bridge
from quire_kernels_xla.session import Session


class DrawInputs(NamedTuple):
    """The two of a step's inputs that a draw reads."""

    sample_rows: torch.Tensor
    sample_positions: torch.Tensor


class HostPrograms:
    """The programs of steps, with their output on the host."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self.load_exact = programs.load_exact

    def run(self, function: Callable[..., Any], plan: StepPlan) -> tuple[torch.Tensor, StepBuffers]:
        """Run a step function that returns one array; return that and the inputs, padded."""
        array, inputs = self._programs.run(function, plan)
        return bridge.to_host(array), inputs


class HostStep:
    """The two halves of a step, `[n, H]` to logits and logits to tokens, on host tensors of any length.

    It is the model too, as far as `SpecialStep` needs one.
    """

    def __init__(
        self,
        session: Session,
        step: StepFunctions,
        rows: Rows,
        hidden: torch.Tensor,
        logits_of: Callable[[torch.Tensor], torch.Tensor],
        vocab_size: int,
    ) -> None:
        """Build both programs. `hidden` is a handle [rows at once, H], `logits_of` the model's head."""
        self.hidden = step.hidden
        self._rows = rows
        self._num_rows = len(hidden)
        self._logits = session.torch_program(logits_of, hidden)
        self._draw = session.torch_program(
            lambda scores, rows, positions: step.draw(DrawInputs(rows, positions), scores),
            bridge.handle((self._num_rows, vocab_size), torch.float32),
            bridge.handle((self._num_rows,), torch.int32),
            bridge.handle((self._num_rows,), torch.int32),
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, V] float32 of hidden states [n, H]."""
        parts = hidden.split(self._num_rows)
        found = [bridge.to_host(self._logits(self._pad(part, 0)))[: len(part)] for part in parts]
        return torch.cat(found)

    def logits_of(self, inputs: StepBuffers, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits [S, V] of the sampled rows, and which are sound."""
        selected = hidden[inputs.sample_index.long()]
        return self.logits(selected), selected.isfinite().all(-1)

    def draw(self, inputs: StepBuffers, logits: torch.Tensor) -> torch.Tensor:
        """Return the tokens [S] drawn from logits [S, V], appended to the rows here and on the device."""
        where = self._pad(inputs.sample_rows, self._rows.scratch), self._pad(inputs.sample_positions, 0)
        token_ids = bridge.to_host(self._draw(self._pad(logits, 0), *where))[: len(logits)].long()
        self._rows.tokens[inputs.sample_rows.long(), inputs.sample_positions.long()] = token_ids.int()
        return token_ids

    def _pad(self, values: torch.Tensor, padding: int) -> np.ndarray:
        array = bridge.to_array(values)
        missing = self._num_rows - len(array)
        return np.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1)), constant_values=padding)
