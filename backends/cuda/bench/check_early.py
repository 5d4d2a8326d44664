"""Kernels that start early give what kernels in order give, bit for bit: a step that reads what is not written yet does
not. Steps of many rows of random weights, each replayed often, while memory is as busy as the step makes it."""

from __future__ import annotations

import torch
from check_engine import BENCH, open_model
from time_steps import capture, decode_inputs, lens_after

from quire import LLM
from quire.execution.torch_executor import TorchExecutor

CASES = ([512], [100] * 2, [512] * 8, [37] * 16, lens_after(930), lens_after(900), lens_after(800), lens_after(300))
REPLAYS = 30
SETTINGS = {**BENCH, "load_format": "dummy", "num_blocks": 12000}


def check_early(shape: str) -> list[str]:
    """Return what differs. In no case do kernels that start early bring other kernels of products with them."""
    found = {option: _hidden_states(shape, option) for option in ("off", "on")}
    wrong = [
        f"{shape}, {len(lens)} rows: {what}"
        for index, lens in enumerate(CASES)
        for what, differs in (
            ("replays differ", not all(torch.equal(found["on"][index][0], other) for other in found["on"][index])),
            ("early is not as in order", not torch.equal(found["on"][index][0], found["off"][index][0])),
        )
        if differs
    ]
    print(f"{shape}: {len(CASES)} steps replayed {REPLAYS} times", *wrong or ["all the same"], sep="\n  ", flush=True)
    return wrong


def _hidden_states(shape: str, option: str) -> list[list[torch.Tensor]]:
    """Return, for each case, the hidden states of its replays."""
    with (
        open_model(shape) as folder,
        LLM(str(folder), backend="cuda", backend_options={"dependent_launch": option}, **SETTINGS) as llm,
        torch.inference_mode(),
    ):
        executor, facts = llm.engine.executor, llm.engine.facts
        assert isinstance(executor, TorchExecutor)
        model, caches = executor.runtime.model, executor.runtime.caches
        states = []
        for index, lens in enumerate(CASES):
            torch.manual_seed(index)
            for cache in (cache for pair in caches for cache in pair):
                cache.normal_()
            inputs = decode_inputs(lens, facts.block_size, facts.num_blocks, facts.max_model_len)
            graph, hidden = capture(lambda inputs=inputs: model.forward(*inputs[:2], caches, inputs[2]))
            states.append([_replayed(graph, hidden) for _ in range(REPLAYS)])
        return states


def _replayed(graph: torch.cuda.CUDAGraph, output: torch.Tensor) -> torch.Tensor:
    graph.replay()
    return output.cpu()
