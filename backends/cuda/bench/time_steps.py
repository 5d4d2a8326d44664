"""Decode steps of a model as one graph each: no host, no sampling, the rows that nano-vllm's workload goes through.

Beside each stands what the keys and values take at the speed of a copy. What is left is the chain of small kernels, on
which settings of products and dependent launches are judged: alone they look better than between one another.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from check_engine import make_workload
from timing import ceilings, replay_us

from quire import LLM
from quire.execution.torch_executor import TorchExecutor
from quire.ops.spec import AttentionBatch

FEW = ([512], [512] * 8, [512] * 16, [512] * 32)
STEPS = (900, 800, 700, 600, 500, 400, 300, 200, 100)


def time_steps(llm: LLM) -> None:
    """Print microseconds a step."""
    executor = llm.engine.executor
    assert isinstance(executor, TorchExecutor)
    runtime, facts = executor.runtime, llm.engine.facts
    copy_gbs = ceilings()["copy GB/s"]
    blocks = min(facts.num_blocks, 12000)
    slot_bytes = sum(2 * cache[0, :, 0].numel() * cache.element_size() for cache, _ in runtime.caches)
    with torch.inference_mode():
        for cache in (cache for pair in runtime.caches for cache in pair):
            cache[:blocks].normal_()
        for lens in (*FEW, *(lens_after(steps) for steps in STEPS)):
            inputs = decode_inputs(lens, facts.block_size, blocks, facts.max_model_len)
            took = time_graph(lambda inputs=inputs: runtime.model.forward(*inputs[:2], runtime.caches, inputs[2]))
            keys = sum(lens) * slot_bytes / copy_gbs / 1e3
            print(f"  {len(lens):3} rows, {sum(lens):6} keys: {took:6.0f} us, keys and values {keys:6.0f}", flush=True)


def lens_after(steps: int) -> list[int]:
    """Return the lengths of the rows that are left of the workload after so many decode steps, longest first."""
    prompts, counts = make_workload()
    pairs = zip(prompts, counts, strict=True)
    return sorted((len(prompt) + steps for prompt, count in pairs if count > steps), reverse=True)


def decode_inputs(
    lens: Sequence[int], block_size: int, num_blocks: int, max_len: int
) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
    """Return token ids, positions and the batch of one decode step over scattered blocks."""
    counts = [-(-length // block_size) for length in lens]
    shuffled = torch.randperm(num_blocks)[: sum(counts)].int().split(counts)
    table = torch.zeros(len(lens), -(-max_len // block_size), dtype=torch.int32)
    for row, ids in enumerate(shuffled):
        table[row, : len(ids)] = ids
    last = torch.tensor(lens) - 1
    slots = table.long().gather(1, (last // block_size)[:, None])[:, 0] * block_size + last % block_size
    starts = torch.arange(len(lens) + 1, dtype=torch.int32)
    fields = [tensor.cuda() for tensor in (starts, (last + 1).int(), table, slots)]
    token_ids = torch.randint(0, 1000, (len(lens),))
    return token_ids.cuda(), last.cuda(), AttentionBatch(*fields, 1, max_len)


def time_graph(call: Callable[[], Any], replays: int = 7) -> float:
    """Return the median time of a call as a graph of its own."""
    graph, _ = capture(call)
    graph.replay()
    return statistics.median(replay_us(graph) for _ in range(replays))


def capture(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Return a call's graph, after one run of it, and what its replays write."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        output = call()
    return graph, output
