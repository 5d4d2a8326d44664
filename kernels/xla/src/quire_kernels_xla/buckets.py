"""The sizes that steps are padded to, and the builder of a program for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quire.backend.contract import Bucket, Program, ScheduleConstraints, StepFunction
from quire.errors import BackendError

if TYPE_CHECKING:
    from quire_kernels_xla.session import Session


@dataclass(frozen=True)
class BucketSizes:
    """Rows of a decode, and tokens of any other step, smallest first. `prompt_rows`: how many rows a step that is no
    decode may have; None: as many as there are."""

    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    prompt_rows: int | None = None

    def constraints(self) -> ScheduleConstraints:
        """Return what the scheduler must obey for every step to fit a bucket."""
        alone = self.prompt_rows is not None
        return ScheduleConstraints(
            mix_prefill_decode=not alone,
            max_prefill_requests=self.prompt_rows,
            token_buckets=self.tokens,
            row_buckets=self.rows,
        )

    def buckets(self, max_tokens: int, max_rows: int) -> list[Bucket]:
        """Return the buckets of an engine of this size, smallest first."""
        max_rows = min(max_rows, max_tokens)
        decodes = [Bucket(size, size, True) for size in _up_to(max_rows, self.rows)]
        sizes = _up_to(max_tokens, self.tokens)
        others = [Bucket(size, min(size, max_rows, self.prompt_rows or max_rows), False) for size in sizes]
        return sorted({*decodes, *others}, key=lambda item: (item.num_tokens, item.num_rows, not item.decode))


@dataclass(frozen=True)
class StaticProgramBuilder:
    """The contract's ProgramBuilder. It builds within the session of a running executor, and sizes without one."""

    sizes: BucketSizes
    session: Session | None = None

    def buckets(self, max_tokens: int, max_rows: int) -> Sequence[Bucket]:
        """Return every bucket; each step fits one, if the scheduler obeys `sizes.constraints`."""
        return self.sizes.buckets(max_tokens, max_rows)

    def build(self, step_fn: StepFunction, bucket: Bucket, example: Any) -> Program:
        """Trace and compile a step function for a bucket. Raise BackendError without an executor."""
        if self.session is None:
            raise BackendError("programs on this device are built by its executor; open an engine")
        return self.session.step(step_fn, bucket, example.max_query_len, example.max_seq_len)


def _up_to(limit: int, sizes: Sequence[int]) -> list[int]:
    """Return the sizes below a limit, and then the limit."""
    return [*(size for size in sizes if size < limit), limit]
