"""Levels 4 and 7: executors that are right for one request alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from quire.execution.torch_executor import TorchExecutor
from quire.plan import StepResult
from seeded_bugs.base import with_executor


class SwapsBlockTables(TorchExecutor):
    """Where three rows or more decode, two of them read each other's first block."""

    def _compute(self, plan):
        blocks = self.runtime.rows.blocks
        if len(plan.rows) < 3 or plan.counts.max() > 1:
            return super()._compute(plan)
        pair = [int(row) for row in plan.rows[:2]]
        blocks[pair, 0] = blocks[pair[::-1], 0]
        try:
            return super()._compute(plan)
        finally:
            blocks[pair, 0] = blocks[pair[::-1], 0]


class LosesOutputsOfThePreempted(TorchExecutor):
    """A row that comes back with outputs takes them for zeros."""

    def _launch(self, plan):
        def cut(row):
            tokens = row.token_ids.copy()
            tokens[row.prompt_len :] = 0
            return replace(row, token_ids=tokens)

        return super()._launch(replace(plan, new_rows=tuple(map(cut, plan.new_rows))))


class WipesBlocksOfNewRows(TorchExecutor):
    """Blocks of a new row are cleared, those it found in the prefix cache too."""

    @torch.inference_mode()
    def _launch(self, plan):
        for row in plan.new_rows:
            for caches in self.runtime.caches:
                for cache in caches:
                    cache[torch.from_numpy(row.block_ids).long()] = 0
        return super()._launch(plan)


class SamplesInTheMiddle(TorchExecutor):
    """The last chunk of a prompt starts one token late, unless it is the only one."""

    def _compute(self, plan):
        late = (plan.starts > 0) & (plan.counts > 1)
        counts = np.where(late, plan.counts - 1, plan.counts).astype(np.int32)
        return super()._compute(replace(plan, starts=(plan.starts + late).astype(np.int32), counts=counts))


class RemembersTheLastTenant(TorchExecutor):
    """A row keeps the first token of whoever had it before."""

    def _launch(self, plan):
        kept = {row.row: int(self.runtime.rows.tokens[row.row, 0]) for row in plan.new_rows}
        taken = getattr(self, "_taken", set())

        def mix(row):
            tokens = row.token_ids.copy()
            tokens[0] = kept[row.row] if row.row in taken else tokens[0]
            return replace(row, token_ids=tokens)

        self._taken = taken | kept.keys()
        return super()._launch(replace(plan, new_rows=tuple(map(mix, plan.new_rows))))


class LogprobsInBits(TorchExecutor):
    def collect(self, ticket):
        result = super().collect(ticket)
        scaled = {
            index: tuple(item._replace(logprobs=item.logprobs / np.float32(np.log(2))) for item in items)
            for index, items in result.logprobs.items()
        }
        return replace(result, logprobs=scaled)


class ForgetsPenaltiesOfThePreempted(TorchExecutor):
    """Outputs of a row that comes back count as its prompt."""

    def _launch(self, plan):
        rows = tuple(replace(row, prompt_len=len(row.token_ids)) for row in plan.new_rows)
        return super()._launch(replace(plan, new_rows=rows))


class IgnoresLogitBias(TorchExecutor):
    def _launch(self, plan):
        import msgspec

        def drop(row):
            return replace(row, sampling=msgspec.structs.replace(row.sampling, logit_bias=None))

        return super()._launch(replace(plan, new_rows=tuple(map(drop, plan.new_rows))))


class OrderOfTheBatch(TorchExecutor):
    """Answers come in the order of row ids, not of the plan."""

    def collect(self, ticket):
        pending = ticket()
        order = np.argsort(pending.plan.rows, kind="stable")
        result = super().collect(lambda: pending)
        if len(order) < 2 or not all(result.token_ids):
            return result
        moved = tuple(result.token_ids[index] for index in order)
        return StepResult(result.step, moved, result.logprobs, result.prompt_logprobs, errors=result.errors)


class HidesNaN(TorchExecutor):
    def collect(self, ticket):
        return replace(super().collect(ticket), errors={})


class BlamesEverybody(TorchExecutor):
    def collect(self, ticket):
        result = super().collect(ticket)
        reason = next(iter(result.errors.values()), "")
        return replace(result, errors=dict.fromkeys(range(len(result.token_ids)), reason) if reason else {})


class NeverLetsGo(TorchExecutor):
    kept: list[object] = []

    def stop(self):
        self.kept.append(self._runtime)
        super().stop()


class StaleSteps(TorchExecutor):
    """With steps in flight, every tenth is answered with the one before it."""

    def collect(self, ticket):
        result = super().collect(ticket)
        last, self._last = getattr(self, "_last", result), result
        same = len(last.token_ids) == len(result.token_ids) and self._context.config.overlap
        return replace(result, token_ids=last.token_ids) if same and result.step % 10 == 9 else result


BlockTableRowSwap = with_executor(SwapsBlockTables)
PreemptionLosesOutputs = with_executor(LosesOutputsOfThePreempted)
PrefixWiped = with_executor(WipesBlocksOfNewRows)
ChunkByOne = with_executor(SamplesInTheMiddle)
RowRemembersTenant = with_executor(RemembersTheLastTenant)
LogprobsBaseTwo = with_executor(LogprobsInBits)
PenaltiesAfterPreemption = with_executor(ForgetsPenaltiesOfThePreempted)
LogitBiasIgnored = with_executor(IgnoresLogitBias)
AnswersByRow = with_executor(OrderOfTheBatch)
NaNHidden = with_executor(HidesNaN)
NaNBlamesAll = with_executor(BlamesEverybody)
LeaksWhenStopped = with_executor(NeverLetsGo)
StaleStepInFlight = with_executor(StaleSteps)
