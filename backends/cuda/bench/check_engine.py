"""The engine on the device: the same tokens on every path, then its speed on random weights."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quire import LLM, SamplingParams
from quire.execution.torch_executor import TorchExecutor

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "plugins/demo-model/src/quire_demo_model/model"
BENCH: dict[str, Any] = {
    "max_model_len": 4096, "max_num_seqs": 256, "max_num_batched_tokens": 8192, "enable_prefix_caching": False,
}  # fmt: skip
COMMON = {"rope_scaling": None, "use_cache": True, "torch_dtype": "bfloat16", "attention_bias": False}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
        "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True, "vocab_size": 151936,
        "bos_token_id": 151643, "eos_token_id": 151645,
    },
    "llama3-8b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 8192, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "mlp_bias": False, "tie_word_embeddings": False, "vocab_size": 128256, "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}  # fmt: skip


def check_tokens() -> list[str]:
    """Compare paths on the demo model in float32; return what differs."""
    prompts = make_prompts(6, 200, 60)
    wanted = [
        SamplingParams(max_tokens=24, ignore_eos=True, seed=7 + i, **(_DRAWN if i % 3 == 2 else {"temperature": 0.0}))
        for i in range(6)
    ]
    small = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "memory_utilization": 0.2}
    paths = {
        "reference": {"backend": "reference", "overlap": False},
        "eager": {"backend": "cuda", "enforce_eager": True, "overlap": False},
        "graphs": {"backend": "cuda", "overlap": False},
        "graphs, overlapped": {"backend": "cuda"},
        "graphs, launches in order": {"backend": "cuda", "backend_options": {"dependent_launch": "off"}},
        "graphs, small chunks": {"backend": "cuda", "max_num_batched_tokens": 32},
    }
    found: dict[str, list[list[int]]] = {}
    for name, settings in paths.items():
        settings = {key: value for key, value in {**small, **settings}.items() if _fits(key, settings)}
        with LLM(str(DEMO), **settings) as llm:
            found[name] = _generate(llm, prompts, wanted)
            again = _generate(llm, prompts, wanted)  # by now from captured graphs
        if again != found[name]:
            found[f"{name}, again"] = again
    failures = [f"{name} differs from the reference in {_count(found, name)} of {len(prompts)} texts" for name in found
                if found[name] != found["reference"]]  # fmt: skip
    print(f"tokens: {len(found)} paths, {len(failures)} differ", *failures, sep="\n  ", flush=True)
    return failures


def time_engine(shape: str, what: set[str], dependent: str = "on", kv_dtype: str = "auto") -> None:
    """Print start, latency and throughput on random weights. `dependent`: the backend's option dependent_launch."""
    started = time.perf_counter()
    with (
        open_model(shape) as folder,
        LLM(
            str(folder), backend="cuda", backend_options={"dependent_launch": dependent}, load_format="dummy", **BENCH
        ) as llm,
    ):
        run(llm, [[5] * 32], [1])
        print(f"{shape}: start to first token {time.perf_counter() - started:.1f} s", flush=True)
        if "latency" in what:
            _time_latency(llm)
        if "throughput" in what:
            _time_throughput(llm)
        if "sweep" in what:
            _time_sweep(llm)
        if "steps" in what:
            import time_steps

            time_steps.time_steps(llm)
        if what & {"trace", "profile"}:
            import trace_engine

            trace_engine.trace(llm) if "trace" in what else trace_engine.profile(llm)


def time_startup(shape: str) -> None:
    """Print `quire bench startup` of new processes: the first may also have to read torch from a cold disk, the second
    has nothing compiled, the third finds what the second compiled."""
    with open_model(shape) as folder, tempfile.TemporaryDirectory() as cache:
        for name, given in (("as it is", {}), ("nothing compiled", {"TRITON_CACHE_DIR": cache}),
                            ("compiled before", {"TRITON_CACHE_DIR": cache})):  # fmt: skip
            code = _STARTUP.format(path=str(folder), name=shape, settings=BENCH)
            done = subprocess.run(
                [sys.executable, "-c", code], env={**os.environ, **given}, capture_output=True, text=True
            )
            print(f"{shape}, {name}: {done.stdout.strip() or done.stderr[-1000:]}", flush=True)


_STARTUP = """
from pathlib import Path
from quire.bench.shapes import BenchModel
from quire.bench.startup import measure_startup
settings = dict(backend="cuda", **{settings})
stages = measure_startup(BenchModel("{name}", Path("{path}"), True), settings)
print(f"start to first token {{sum(stage.seconds for stage in stages[:-1]):.1f}} s:",
      ", ".join(f"{{stage.name}} {{stage.seconds:.2f}}" for stage in stages))
"""


def _time_latency(llm: LLM) -> None:
    for _ in range(2):
        run(llm, make_prompts(1, 10000, 1024), [4])
    firsts = [_seconds(llm, make_prompts(1, 10000, 1024), [1]) for _ in range(10)]
    print(f"  first token after 1,024: {1e3 * statistics.median(firsts):.1f} ms", flush=True)
    for context in (128, 1024):
        run(llm, make_prompts(1, 10000, context), [300])
        rates = []
        for _ in range(3):
            first = _seconds(llm, make_prompts(1, 10000, context), [1])
            rates.append(256 / (_seconds(llm, make_prompts(1, 10000, context), [257]) - first))
        print(f"  batch 1, context {context}: {statistics.median(rates):.0f} tok/s", flush=True)


def _time_throughput(llm: LLM) -> None:
    prompts, counts = make_workload()
    for attempt in range(3):
        took = _seconds(llm, prompts, counts)
        print(f"  throughput {attempt}: {sum(counts)} tokens out, {sum(counts) / took:.0f} tok/s", flush=True)


def make_workload() -> tuple[list[list[int]], list[int]]:
    """Return nano-vllm's: 256 sequences, prompts and outputs uniform in 100–1,024, seed 0."""
    random.seed(0)
    prompts = [[random.randint(0, 10000) for _ in range(random.randint(100, 1024))] for _ in range(256)]
    return prompts, [random.randint(100, 1024) for _ in range(256)]


def check_plan(shape: str) -> list[str]:
    """Compare what was planned with what the engine measures, and with what the device says is gone, after a workload
    whose steps are captured; return what is wrong."""
    import torch

    free_before, total = torch.cuda.mem_get_info()
    settings = {**BENCH, "memory_utilization": 0.9}
    with open_model(shape) as folder, LLM(str(folder), backend="cuda", load_format="dummy", **settings) as llm:
        for _ in range(2):
            run(llm, *make_workload())
        executor = llm.engine.executor
        assert isinstance(executor, TorchExecutor)
        planned, used = executor.runtime.plan.total_bytes, free_before - torch.cuda.mem_get_info()[0]
        measured = sum(executor.memory_report().values())
    figures = {"planned": planned, "measured": measured, "gone from the device": used, "of": total}
    print(f"{shape}: " + ", ".join(f"{name} {count / 2**30:.2f} GiB" for name, count in figures.items()), flush=True)
    return [
        f"{shape}: {name} is {count / planned:.3f} of the plan"
        for name, count in (("measured", measured), ("gone from the device", used))
        if not 0.95 <= count / planned <= 1.05
    ]


def _time_sweep(llm: LLM) -> None:
    for batch in (1, 8, 32, 64, 128, 256):
        prompts = [prompt[:512] for prompt in make_prompts(batch, 10000, 512)]
        run(llm, prompts, [129] * batch)  # also those buckets are captured that the last rows to end pass through
        first = _seconds(llm, prompts, [1] * batch)
        took = _seconds(llm, prompts, [129] * batch) - first
        print(f"  batch {batch}: {128 * batch / took:.0f} tok/s, {took / 128 * 1e3:.2f} ms a step", flush=True)


_DRAWN = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01}


def run(llm: LLM, prompts: list[list[int]], counts: list[int]) -> None:
    wanted = [SamplingParams(temperature=0.6, max_tokens=count, ignore_eos=True) for count in counts]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], wanted, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == counts, "some sequence ended early"


def _seconds(llm: LLM, prompts: list[list[int]], counts: list[int]) -> float:
    started = time.perf_counter()
    run(llm, prompts, counts)
    return time.perf_counter() - started


def _generate(llm: LLM, prompts: list[list[int]], wanted: list[SamplingParams]) -> list[list[int]]:
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], wanted, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def make_prompts(count: int, vocab_size: int, longest: int) -> list[list[int]]:
    """Return prompts, never the same twice; of several, the first is the longest."""
    lengths = [max(1, longest * (count - i) // count) for i in range(count)] if vocab_size < 1000 else [longest] * count
    return [[_RANDOM.randint(2, vocab_size - 1) for _ in range(length)] for length in lengths]


_RANDOM = random.Random(12345)


def _count(found: dict[str, list[list[int]]], name: str) -> int:
    return sum(a != b for a, b in zip(found[name], found["reference"], strict=True))


def _fits(key: str, settings: dict[str, Any]) -> bool:
    return not (key == "memory_utilization" and settings["backend"] == "reference")


@contextmanager
def open_model(shape: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({**COMMON, **SHAPES[shape]}))
        yield Path(folder)
